// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2xf32>) {
  %n = "onnx.none"() : () -> none
  %0 = "onnx.Abs"(%n) : (none) -> tensor<2xf32> loc("abs")
  func.return
}
// CHECK: error: {{.*}}input X is not optional
