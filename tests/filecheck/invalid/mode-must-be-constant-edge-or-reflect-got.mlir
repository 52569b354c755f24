// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<1x3x!u>) -> (tensor<1x6x!u>) {
  %r0 = "q.pad"(%x) {pads = array<i64: 0, 1, 0, 2>, value = 9 : i64, mode = "wrap"} : (tensor<1x3x!u>) -> tensor<1x6x!u>
  func.return %r0 : tensor<1x6x!u>
}
// CHECK: error: {{.*}}mode must be constant, edge or reflect, got 'wrap'
