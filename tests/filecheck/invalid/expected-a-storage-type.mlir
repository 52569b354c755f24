// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2x!quant.uniform<u1:f32, 1.0>>) {
  func.return
}
// CHECK: error: {{.*}}expected a storage type i2..i16, u2..u16 or i32, got 'u1'
