// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<8xf32>) -> (tensor<8x!quant.uniform<i32:f32, 1.0e-01>>) {
  %r0 = "q.quantize"(%x) : (tensor<8xf32>) -> tensor<8x!quant.uniform<i32:f32, 1.0e-01>>
  func.return %r0 : tensor<8x!quant.uniform<i32:f32, 1.0e-01>>
}
// CHECK: error: {{.*}}not exact enough to quantize to 32 bits
