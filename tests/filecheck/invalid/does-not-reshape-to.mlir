// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<2x3x!u>) -> (tensor<5x!u>) {
  %r0 = "q.reshape"(%x) : (tensor<2x3x!u>) -> tensor<5x!u>
  func.return %r0 : tensor<5x!u>
}
// CHECK: error: {{.*}}[2, 3] does not reshape to [5]
