// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<2x2x!u>, %b: tensor<2x2xi8>, %c: tensor<2xi32>, %m: tensor<3xf64>) -> (tensor<2x2x!u>) {
  %r0 = "q.matmul"(%a, %b, %c, %m) {a_zero_point = 3 : i64, b_zero_point = 0 : i64, rounding = "fp32", clamp = array<i64: 0, 255>} : (tensor<2x2x!u>, tensor<2x2xi8>, tensor<2xi32>, tensor<3xf64>) -> tensor<2x2x!u>
  func.return %r0 : tensor<2x2x!u>
}
// CHECK: error: {{.*}}expected 1 or 2 multipliers, found [3]
