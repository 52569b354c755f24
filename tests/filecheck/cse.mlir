// RUN: qcompiler opt %s -p 'cse'
func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
  %0 = "onnx.Abs"(%x) : (tensor<2xf32>) -> tensor<2xf32> loc("first")
  %1 = "onnx.Abs"(%x) : (tensor<2xf32>) -> tensor<2xf32> loc("second")
  %2 = "onnx.Add"(%0, %1) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32> loc("sum")
  func.return %2 : tensor<2xf32>
}
// CHECK: %[[A:.*]] = "onnx.Abs"(%x) {{.*}} loc("first")
// CHECK-NEXT: "onnx.Add"(%[[A]], %[[A]])
