// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2x!quant.uniform<u8:f32, 1.0:256>>) {
  func.return
}
// CHECK: error: {{.*}}expected a zero point in 0:255, got 256
