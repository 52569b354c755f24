// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<1x2x!u>) -> (tensor<1x5x!u>) {
  %r0 = "q.pad"(%x) {pads = array<i64: 0, 1, 0, 2>, value = 0 : i64, mode = "reflect"} : (tensor<1x2x!u>) -> tensor<1x5x!u>
  func.return %r0 : tensor<1x5x!u>
}
// CHECK: error: {{.*}}reflect takes pads
