// RUN: qcompiler opt %s --verify-only
func.func @main(%a: tensor<2x2xui8>, %b: tensor<2x2xi8>, %p: tensor<3xui8>, %q: tensor<2xi8>) -> (tensor<2x2xi32>) {
  %r0 = "q.matmul_integer"(%a, %b, %p, %q) : (tensor<2x2xui8>, tensor<2x2xi8>, tensor<3xui8>, tensor<2xi8>) -> tensor<2x2xi32>
  func.return %r0 : tensor<2x2xi32>
}
// CHECK: error: {{.*}}expected zero points of shape [2] or [2, 1], found [3]
