// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2xf32>) {
  %0 = "onnx.Abs"(%x, %x) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32> loc("abs")
  func.return
}
// CHECK: error: {{.*}}expected 1 to 1 inputs, got 2
