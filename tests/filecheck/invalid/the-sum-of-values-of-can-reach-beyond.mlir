// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!h = !quant.uniform<i16:f32, 1.0e-02>
func.func @main(%x: tensor<2x65536x!h>) -> (tensor<2x!u>) {
  %r0 = "q.mean"(%x) {axes = array<i64: 1>, rounding = "fp32", clamp = array<i64: 0, 255>} : (tensor<2x65536x!h>) -> tensor<2x!u>
  func.return %r0 : tensor<2x!u>
}
// CHECK: error: {{.*}}the sum of 65536 values of !quant.uniform<i16:f32, 1.0e-02> can reach 2147483648, beyond int32
