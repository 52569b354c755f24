// RUN: qcompiler opt %s --verify-only
!b = !quant.uniform<i8:f32:{0:1, 1:2}, {{1.0e-01, 2.0e-01}, {3.0e-01, 4.0e-01}}>
func.func @main(%x: tensor<4x4x!b>) -> (tensor<4x4xf32>) {
  %r0 = "q.dequantize"(%x) : (tensor<4x4x!b>) -> tensor<4x4xf32>
  func.return %r0 : tensor<4x4xf32>
}
// CHECK: error: {{.*}}scales [2, 2] in blocks {0: 1, 1: 2} do not fit [4, 4]
