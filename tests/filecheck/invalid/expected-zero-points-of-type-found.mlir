// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<8xf32>, %s: tensor<f32>, %z: tensor<1xi8>) -> (tensor<8xui8>) {
  %r0 = "q.quantize_linear"(%x, %s, %z) {axis = 0 : i64, block_size = 0 : i64, saturate = true} : (tensor<8xf32>, tensor<f32>, tensor<1xi8>) -> tensor<8xui8>
  func.return %r0 : tensor<8xui8>
}
// CHECK: error: {{.*}}expected zero points of type ui8
