// RUN: qcompiler opt %s -p 'dce'
func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
  %w = "q.constant"() {value = dense_resource<w> : tensor<2xf32>} : () -> tensor<2xf32>
  %0 = "onnx.Abs"(%x) : (tensor<2xf32>) -> tensor<2xf32> loc("used")
  %1 = "onnx.Add"(%0, %w) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32> loc("unused")
  %2 = "onnx.RandomUniformLike"(%x) : (tensor<2xf32>) -> tensor<2xf32> loc("not pure")
  func.return %0 : tensor<2xf32>
}
// CHECK: func.func
// CHECK-NEXT: "onnx.Abs"
// CHECK-NEXT: "onnx.RandomUniformLike"
// CHECK-NEXT: func.return
