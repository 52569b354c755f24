// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<3x!u>, %b: tensor<3x!u>) -> (tensor<3x!u>) {
  %r0 = "q.add"(%a, %b) {clamps = 1 : i64, clamp = array<i64: 0, 255>} : (tensor<3x!u>, tensor<3x!u>) -> tensor<3x!u>
  func.return %r0 : tensor<3x!u>
}
// CHECK: error: {{.*}}q.add does not verify: unknown attribute 'clamps'
