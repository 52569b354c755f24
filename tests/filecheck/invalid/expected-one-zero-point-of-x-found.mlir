// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<1x1x2x2xui8>, %w: tensor<2x1x2x1xi8>, %p: tensor<2xui8>, %q: tensor<2xi8>) -> (tensor<1x2x2x2xi32>) {
  %r0 = "q.conv_integer"(%x, %w, %p, %q) {strides = array<i64: 1, 1>, pads = array<i64: 1, 0, 0, 0>, dilations = array<i64: 1, 1>, group = 1 : i64} : (tensor<1x1x2x2xui8>, tensor<2x1x2x1xi8>, tensor<2xui8>, tensor<2xi8>) -> tensor<1x2x2x2xi32>
  func.return %r0 : tensor<1x2x2x2xi32>
}
// CHECK: error: {{.*}}expected one zero point of x, found [2]
