// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!v = !quant.uniform<u8:f32, 2.5e-01:128>
func.func @main(%a: tensor<2x1x2x!u>, %b: tensor<3x2x1x!v>, %c: tensor<1xi32>, %m: tensor<1xf64>) -> (tensor<2x1x1x!u>) {
  %r0 = "q.matmul"(%a, %b, %c, %m) {a_zero_point = 3 : i64, b_zero_point = 128 : i64, rounding = "fixed", clamp = array<i64: 0, 255>} : (tensor<2x1x2x!u>, tensor<3x2x1x!v>, tensor<1xi32>, tensor<1xf64>) -> tensor<2x1x1x!u>
  func.return %r0 : tensor<2x1x1x!u>
}
// CHECK: error: {{.*}}do not broadcast
