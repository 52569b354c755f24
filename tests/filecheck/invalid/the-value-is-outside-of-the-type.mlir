// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<1x3x!u>) -> (tensor<1x6x!u>) {
  %r0 = "q.pad"(%x) {pads = array<i64: 0, 1, 0, 2>, value = 256 : i64, mode = "constant"} : (tensor<1x3x!u>) -> tensor<1x6x!u>
  func.return %r0 : tensor<1x6x!u>
}
// CHECK: error: {{.*}}the value 256 is outside of the type
