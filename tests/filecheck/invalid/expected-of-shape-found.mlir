// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<8xf32>) -> (tensor<4x!u>) {
  %r0 = "q.quantize"(%x) : (tensor<8xf32>) -> tensor<4x!u>
  func.return %r0 : tensor<4x!u>
}
// CHECK: error: {{.*}}expected a result of shape [8], found [4]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<3x!u>) -> (tensor<1x3xf32>) {
  %r0 = "q.dequantize"(%x) : (tensor<3x!u>) -> tensor<1x3xf32>
  func.return %r0 : tensor<1x3xf32>
}
// CHECK: error: {{.*}}expected a result of shape [3], found [1, 3]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<1x1x3x3x!u>, %w: tensor<1x1x2x2xi8>, %b: tensor<2xi32>, %m: tensor<1xf64>) -> (tensor<1x1x2x2x!u>) {
  %r0 = "q.conv"(%x, %w, %b, %m) {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, group = 1 : i64, x_zero_point = 3 : i64, pad_value = 3 : i64, rounding = "fp32", clamp = array<i64: 0, 255>, layout = "NCHW"} : (tensor<1x1x3x3x!u>, tensor<1x1x2x2xi8>, tensor<2xi32>, tensor<1xf64>) -> tensor<1x1x2x2x!u>
  func.return %r0 : tensor<1x1x2x2x!u>
}
// CHECK: error: {{.*}}expected bias of shape [1], found [2]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<1x2x1x1x!u>, %w: tensor<2x1x2x1xi8>, %b: tensor<2xi32>, %m: tensor<2xf64>, %z: tensor<3xi32>) -> (tensor<1x1x1x2x!u>) {
  %r0 = "q.conv"(%x, %w, %b, %m, %z) {strides = array<i64: 2, 1>, pads = array<i64: 1, 0, 0, 0>, dilations = array<i64: 1, 1>, group = 1 : i64, x_zero_point = 3 : i64, pad_value = 3 : i64, rounding = "fixed2", clamp = array<i64: 3, 20>, layout = "NHWC"} : (tensor<1x2x1x1x!u>, tensor<2x1x2x1xi8>, tensor<2xi32>, tensor<2xf64>, tensor<3xi32>) -> tensor<1x1x1x2x!u>
  func.return %r0 : tensor<1x1x1x2x!u>
}
// CHECK: error: {{.*}}expected weight zero points of shape [2], found [3]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<2x2x!u>, %b: tensor<2x2xi8>, %c: tensor<1xi32>, %m: tensor<1xf64>) -> (tensor<2x2x!u>) {
  %r0 = "q.matmul"(%a, %b, %c, %m) {a_zero_point = 3 : i64, b_zero_point = 0 : i64, rounding = "fp32", clamp = array<i64: 0, 255>} : (tensor<2x2x!u>, tensor<2x2xi8>, tensor<1xi32>, tensor<1xf64>) -> tensor<2x2x!u>
  func.return %r0 : tensor<2x2x!u>
}
// CHECK: error: {{.*}}expected bias of shape [2], found [1]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<2x2x!u>, %b: tensor<2x2xi8>, %c: tensor<2xi32>, %m: tensor<1xf64>) -> (tensor<2x1x!u>) {
  %r0 = "q.matmul"(%a, %b, %c, %m) {a_zero_point = 3 : i64, b_zero_point = 0 : i64, rounding = "fp32", clamp = array<i64: 0, 255>} : (tensor<2x2x!u>, tensor<2x2xi8>, tensor<2xi32>, tensor<1xf64>) -> tensor<2x1x!u>
  func.return %r0 : tensor<2x1x!u>
}
// CHECK: error: {{.*}}expected a result of shape [2, 2], found [2, 1]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<1x2x!u>, %b: tensor<2x2xi8>, %c: tensor<2xi32>, %m: tensor<2xf64>, %z: tensor<1xi32>) -> (tensor<1x2x!u>) {
  %r0 = "q.matmul"(%a, %b, %c, %m, %z) {a_zero_point = 3 : i64, b_zero_point = 0 : i64, rounding = "fp32", clamp = array<i64: 0, 255>} : (tensor<1x2x!u>, tensor<2x2xi8>, tensor<2xi32>, tensor<2xf64>, tensor<1xi32>) -> tensor<1x2x!u>
  func.return %r0 : tensor<1x2x!u>
}
// CHECK: error: {{.*}}expected zero points of shape [2]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<3x!u>, %b: tensor<3x!u>) -> (tensor<1x3x!u>) {
  %r0 = "q.add"(%a, %b) {clamp = array<i64: 0, 255>} : (tensor<3x!u>, tensor<3x!u>) -> tensor<1x3x!u>
  func.return %r0 : tensor<1x3x!u>
}
// CHECK: error: {{.*}}expected a result of shape [3], found [1, 3]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!v = !quant.uniform<u8:f32, 2.5e-01:128>
func.func @main(%x: tensor<2x2x!u>, %t: tensor<255xui8>) -> (tensor<2x2x!v>) {
  %r0 = "q.lut"(%x, %t) : (tensor<2x2x!u>, tensor<255xui8>) -> tensor<2x2x!v>
  func.return %r0 : tensor<2x2x!v>
}
// CHECK: error: {{.*}}expected a table of shape [256], found [255]
// -----
!v = !quant.uniform<u8:f32, 2.5e-01:128>
!h = !quant.uniform<i16:f32, 1.0e-02>
func.func @main(%x: tensor<2x2x!h>, %t: tensor<256xui8>) -> (tensor<2x2x!v>) {
  %r0 = "q.lut"(%x, %t) : (tensor<2x2x!h>, tensor<256xui8>) -> tensor<2x2x!v>
  func.return %r0 : tensor<2x2x!v>
}
// CHECK: error: {{.*}}expected a table of shape [65536], found [256]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!k = !quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>
func.func @main(%x: tensor<2x2x!u>, %t: tensor<256xui8>) -> (tensor<2x2x!k>) {
  %r0 = "q.lut"(%x, %t) : (tensor<2x2x!u>, tensor<256xui8>) -> tensor<2x2x!k>
  func.return %r0 : tensor<2x2x!k>
}
// CHECK: error: {{.*}}expected a table of shape [2, 256], found [256]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!h = !quant.uniform<i16:f32, 1.0e-02>
func.func @main(%x: tensor<3x!u>) -> (tensor<4x!h>) {
  %r0 = "q.requantize"(%x) {rounding = "fp32", clamp = array<i64: -32768, 32767>} : (tensor<3x!u>) -> tensor<4x!h>
  func.return %r0 : tensor<4x!h>
}
// CHECK: error: {{.*}}expected a result of shape [3], found [4]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!v = !quant.uniform<u8:f32, 2.5e-01:128>
func.func @main(%x: tensor<2x2x!u>, %t: tensor<256xui8>) -> (tensor<4x!v>) {
  %r0 = "q.lut"(%x, %t) : (tensor<2x2x!u>, tensor<256xui8>) -> tensor<4x!v>
  func.return %r0 : tensor<4x!v>
}
// CHECK: error: {{.*}}expected a result of shape [2, 2], found [4]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<2x1x!u>, %b: tensor<3x2x!u>) -> (tensor<2x3x!u>) {
  %r0 = "q.concat"(%a, %b) {axis = 1 : i64} : (tensor<2x1x!u>, tensor<3x2x!u>) -> tensor<2x3x!u>
  func.return %r0 : tensor<2x3x!u>
}
// CHECK: error: {{.*}}expected an operand of shape [2, 2], found [3, 2]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<1x3x!u>) -> (tensor<1x5x!u>) {
  %r0 = "q.pad"(%x) {pads = array<i64: 0, 1, 0, 2>, value = 9 : i64, mode = "constant"} : (tensor<1x3x!u>) -> tensor<1x5x!u>
  func.return %r0 : tensor<1x5x!u>
}
// CHECK: error: {{.*}}expected a result of shape [1, 6], found [1, 5]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<2x3x!u>) -> (tensor<2x3x!u>) {
  %r0 = "q.transpose"(%x) {perm = array<i64: 1, 0>} : (tensor<2x3x!u>) -> tensor<2x3x!u>
  func.return %r0 : tensor<2x3x!u>
}
// CHECK: error: {{.*}}expected a result of shape [3, 2], found [2, 3]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<1x3x!u>, %b: tensor<3x1xi8>, %c: tensor<1xi32>, %m: tensor<1xf64>, %f: tensor<3x1xi32>) -> (tensor<1x1x!u>) {
  %r0 = "q.matmul_grouped"(%a, %b, %c, %m, %f) {a_zero_point = 3 : i64, clamp = array<i64: 0, 255>, group = 2 : i64, rounding = "fp32"} : (tensor<1x3x!u>, tensor<3x1xi8>, tensor<1xi32>, tensor<1xf64>, tensor<3x1xi32>) -> tensor<1x1x!u>
  func.return %r0 : tensor<1x1x!u>
}
// CHECK: error: {{.*}}expected factors of shape [2, 1]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<2x3x!u>, %i: tensor<2xi64>) -> (tensor<2x3x!u>) {
  %r0 = "q.gather"(%x, %i) {axis = 1 : i64} : (tensor<2x3x!u>, tensor<2xi64>) -> tensor<2x3x!u>
  func.return %r0 : tensor<2x3x!u>
}
// CHECK: error: {{.*}}expected a result of shape [2, 2], found [2, 3]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<1x1x2x2x!u>, %r: tensor<3xi64>, %c: tensor<1xi64>) -> (tensor<1x1x3x2x!u>) {
  %r0 = "q.resize"(%x, %r, %c) {layout = "NCHW"} : (tensor<1x1x2x2x!u>, tensor<3xi64>, tensor<1xi64>) -> tensor<1x1x3x2x!u>
  func.return %r0 : tensor<1x1x3x2x!u>
}
// CHECK: error: {{.*}}expected a result of shape [1, 1, 3, 1]
// -----
func.func @main(%x: tensor<8xf32>, %s: tensor<f32>, %z: tensor<1xui8>) -> (tensor<7xui8>) {
  %r0 = "q.quantize_linear"(%x, %s, %z) {axis = 0 : i64, block_size = 0 : i64, saturate = true} : (tensor<8xf32>, tensor<f32>, tensor<1xui8>) -> tensor<7xui8>
  func.return %r0 : tensor<7xui8>
}
// CHECK: error: {{.*}}expected a result of shape [8], found [7]
// -----
func.func @main(%x: tensor<2x2xf32>, %s: tensor<3xf32>, %z: tensor<2xi2>) -> (tensor<2x2xi2>) {
  %r0 = "q.quantize_linear"(%x, %s, %z) {axis = 1 : i64, block_size = 0 : i64, saturate = true} : (tensor<2x2xf32>, tensor<3xf32>, tensor<2xi2>) -> tensor<2x2xi2>
  func.return %r0 : tensor<2x2xi2>
}
// CHECK: error: {{.*}}expected scales of shape [2], found [3]
// -----
func.func @main(%x: tensor<2x3xf32>, %s: tensor<2x3xf32>) -> (tensor<2x3xui4>) {
  %r0 = "q.quantize_linear"(%x, %s) {axis = 1 : i64, block_size = 2 : i64, saturate = true} : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xui4>
  func.return %r0 : tensor<2x3xui4>
}
// CHECK: error: {{.*}}expected scales of shape [2, 2], found [2, 3]
// -----
func.func @main(%x: tensor<2x2xui16>, %s: tensor<2xf32>, %z: tensor<3xui16>) -> (tensor<2x2xf32>) {
  %r0 = "q.dequantize_linear"(%x, %s, %z) {axis = 0 : i64, block_size = 0 : i64} : (tensor<2x2xui16>, tensor<2xf32>, tensor<3xui16>) -> tensor<2x2xf32>
  func.return %r0 : tensor<2x2xf32>
}
// CHECK: error: {{.*}}expected zero points of shape [2], found [3]
// -----
func.func @main(%x: tensor<2x3xf32>) -> (tensor<1xf32>, tensor<ui8>) {
  %r0, %r1 = "q.dynamic_range"(%x) : (tensor<2x3xf32>) -> (tensor<1xf32>, tensor<ui8>)
  func.return %r0, %r1 : tensor<1xf32>, tensor<ui8>
}
// CHECK: error: {{.*}}expected a result of shape [], found [1]
// -----
func.func @main(%x: tensor<1x1x2x2xui8>, %w: tensor<2x1x2x1xi8>, %p: tensor<ui8>, %q: tensor<3xi8>) -> (tensor<1x2x2x2xi32>) {
  %r0 = "q.conv_integer"(%x, %w, %p, %q) {strides = array<i64: 1, 1>, pads = array<i64: 1, 0, 0, 0>, dilations = array<i64: 1, 1>, group = 1 : i64} : (tensor<1x1x2x2xui8>, tensor<2x1x2x1xi8>, tensor<ui8>, tensor<3xi8>) -> tensor<1x2x2x2xi32>
  func.return %r0 : tensor<1x2x2x2xi32>
}
// CHECK: error: {{.*}}expected zero points of w of shape [2], found [3]
// -----
func.func @main(%a: tensor<2x1x2xi8>, %b: tensor<2x3xi8>, %p: tensor<2x1x1xi8>, %q: tensor<i8>) -> (tensor<1x3xi32>) {
  %r0 = "q.matmul_integer"(%a, %b, %p, %q) : (tensor<2x1x2xi8>, tensor<2x3xi8>, tensor<2x1x1xi8>, tensor<i8>) -> tensor<1x3xi32>
  func.return %r0 : tensor<1x3xi32>
}
// CHECK: error: {{.*}}expected a result of shape [2, 1, 3]
