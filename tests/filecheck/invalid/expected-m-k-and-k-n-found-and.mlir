// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<2x2x!u>, %b: tensor<3x2xi8>, %c: tensor<2xi32>, %m: tensor<1xf64>) -> (tensor<2x2x!u>) {
  %r0 = "q.matmul"(%a, %b, %c, %m) {a_zero_point = 3 : i64, b_zero_point = 0 : i64, rounding = "fp32", clamp = array<i64: 0, 255>} : (tensor<2x2x!u>, tensor<3x2xi8>, tensor<2xi32>, tensor<1xf64>) -> tensor<2x2x!u>
  func.return %r0 : tensor<2x2x!u>
}
// CHECK: error: {{.*}}expected [..., M, K] and [..., K, N], found [2, 2] and [3, 2]
// -----
func.func @main(%a: tensor<2x2xui8>, %b: tensor<3x2xi8>, %p: tensor<2xui8>, %q: tensor<2xi8>) -> (tensor<2x2xi32>) {
  %r0 = "q.matmul_integer"(%a, %b, %p, %q) : (tensor<2x2xui8>, tensor<3x2xi8>, tensor<2xui8>, tensor<2xi8>) -> tensor<2x2xi32>
  func.return %r0 : tensor<2x2xi32>
}
// CHECK: error: {{.*}}expected [..., M, K] and [..., K, N]
