// RUN: qcompiler opt %s --verify-only
!b = !quant.uniform<i8:f32:{0:1, 1:2}, {{1.0e-01, 2.0e-01}, {3.0e-01, 4.0e-01}}>
func.func @main(%x: tensor<2x2xf32>) -> (tensor<2x2x!b>) {
  %r0 = "q.quantize"(%x) {q.why = "weights"} : (tensor<2x2xf32>) -> tensor<2x2x!b>
  func.return %r0 : tensor<2x2x!b>
}
// CHECK: error: {{.*}}expected a per-tensor or per-axis type
