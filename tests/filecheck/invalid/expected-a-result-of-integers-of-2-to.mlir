// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<4xf32>, %s: tensor<f32>) -> (tensor<4xi32>) {
  %r0 = "q.quantize_linear"(%x, %s) {axis = 0 : i64, block_size = 0 : i64, saturate = true} : (tensor<4xf32>, tensor<f32>) -> tensor<4xi32>
  func.return %r0 : tensor<4xi32>
}
// CHECK: error: {{.*}}expected a result of integers of 2 to 16 bits
