// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<2x2x!u>) -> (tensor<1x1x2x1x!u>) {
  %r0 = "q.average_pool"(%x) {kernel = array<i64: 2, 2>, strides = array<i64: 1, 1>, pads = array<i64: 1, 0, 0, 0>, count_include_pad = false, rounding = "fp32", clamp = array<i64: 0, 255>, layout = "NCHW"} : (tensor<2x2x!u>) -> tensor<1x1x2x1x!u>
  func.return %r0 : tensor<1x1x2x1x!u>
}
// CHECK: error: {{.*}}of one rank above 2
