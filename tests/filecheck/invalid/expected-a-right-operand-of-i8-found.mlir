// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<1x3x!u>, %b: tensor<3x1xi16>, %c: tensor<1xi32>, %m: tensor<1xf64>, %f: tensor<2x1xi32>) -> (tensor<1x1x!u>) {
  %r0 = "q.matmul_grouped"(%a, %b, %c, %m, %f) {a_zero_point = 3 : i64, clamp = array<i64: 0, 255>, group = 2 : i64, rounding = "fp32"} : (tensor<1x3x!u>, tensor<3x1xi16>, tensor<1xi32>, tensor<1xf64>, tensor<2x1xi32>) -> tensor<1x1x!u>
  func.return %r0 : tensor<1x1x!u>
}
// CHECK: error: {{.*}}expected a right operand of i8
