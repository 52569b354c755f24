// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
  %1 = "onnx.Abs"(%0) : (tensor<2xf32>) -> tensor<2xf32> loc("early")
  %0 = "onnx.Abs"(%x) : (tensor<2xf32>) -> tensor<2xf32>
  func.return %1 : tensor<2xf32>
}
// CHECK: error: {{.*}}onnx.Abs 'early' uses a value before its definition
