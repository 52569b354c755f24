// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<2x3x!u>) -> (tensor<3x2x!u>) {
  %r0 = "q.transpose"(%x) {perm = array<i64: 1, 1>} : (tensor<2x3x!u>) -> tensor<3x2x!u>
  func.return %r0 : tensor<3x2x!u>
}
// CHECK: error: {{.*}}perm must order the 2 axes, got [1, 1]
