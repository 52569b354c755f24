// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2xf32>) {
  %0 = "onnx.Abs"(%x) {speed = 1 : i64} : (tensor<2xf32>) -> tensor<2xf32> loc("abs")
  func.return
}
// CHECK: error: {{.*}}unknown attribute 'speed', expected one of: no attributes
