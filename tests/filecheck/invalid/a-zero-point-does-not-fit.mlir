// RUN: qcompiler opt %s --verify-only
func.func @main(%a: tensor<2x2xui8>, %b: tensor<2x2xi8>, %p: tensor<2xui8>, %q: tensor<1x2x2xi8>) -> (tensor<2x2xi32>) {
  %r0 = "q.matmul_integer"(%a, %b, %p, %q) : (tensor<2x2xui8>, tensor<2x2xi8>, tensor<2xui8>, tensor<1x2x2xi8>) -> tensor<2x2xi32>
  func.return %r0 : tensor<2x2xi32>
}
// CHECK: error: {{.*}}a zero point [1, 2, 2] does not fit [2, 2]
