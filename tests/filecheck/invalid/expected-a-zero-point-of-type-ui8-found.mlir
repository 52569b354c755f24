// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2x3xf32>) -> (tensor<f32>, tensor<i8>) {
  %r0, %r1 = "q.dynamic_range"(%x) : (tensor<2x3xf32>) -> (tensor<f32>, tensor<i8>)
  func.return %r0, %r1 : tensor<f32>, tensor<i8>
}
// CHECK: error: {{.*}}expected a zero point of type ui8
