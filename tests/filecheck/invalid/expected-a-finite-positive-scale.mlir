// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2x!quant.uniform<u8:f32, -1.0>>) {
  func.return
}
// CHECK: error: {{.*}}expected a finite, positive scale, got -1.0
