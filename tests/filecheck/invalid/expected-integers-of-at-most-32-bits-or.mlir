// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2xi64>, %s: tensor<1xf32>) -> (tensor<2xf32>) {
  %r0 = "q.dequantize_linear"(%x, %s) {axis = 0 : i64, block_size = 0 : i64} : (tensor<2xi64>, tensor<1xf32>) -> tensor<2xf32>
  func.return %r0 : tensor<2xf32>
}
// CHECK: error: {{.*}}expected integers of at most 32 bits
