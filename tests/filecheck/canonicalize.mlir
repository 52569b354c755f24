// RUN: qcompiler opt %s -p 'canonicalize'
// CONSTANT: pads = 0 0 1 0 0 0 1 0
// CONSTANT: zero = 0
func.func @main(%x: tensor<1x2x4x4xf32>) -> tensor<1x27xf32> {
  %pads = "q.constant"() {value = dense_resource<pads> : tensor<8xi64>} : () -> tensor<8xi64>
  %zero = "q.constant"() {value = dense_resource<zero> : tensor<f32>} : () -> tensor<f32>
  %w = "q.constant"() {value = dense_resource<w> : tensor<3x2x3x3xf32>} : () -> tensor<3x2x3x3xf32>
  %b = "q.constant"() {value = dense_resource<b> : tensor<3x1x1xf32>} : () -> tensor<3x1x1xf32>
  %0 = "onnx.Pad"(%x, %pads, %zero) : (tensor<1x2x4x4xf32>, tensor<8xi64>, tensor<f32>) -> tensor<1x2x6x4xf32> loc("pad")
  %1 = "onnx.Conv"(%0, %w) {strides = array<i64: 2, 2>, auto_pad = "NOTSET", pads = array<i64: 0, 0, 0, 0>} : (tensor<1x2x6x4xf32>, tensor<3x2x3x3xf32>) -> tensor<1x3x2x1xf32> loc("conv")
  %2 = "onnx.Add"(%1, %b) : (tensor<1x3x2x1xf32>, tensor<3x1x1xf32>) -> tensor<1x3x2x1xf32> loc("bias")
  %3 = "onnx.Identity"(%2) : (tensor<1x3x2x1xf32>) -> tensor<1x3x2x1xf32> loc("nothing")
  %4 = "onnx.Transpose"(%3) {perm = array<i64: 0, 2, 3, 1>} : (tensor<1x3x2x1xf32>) -> tensor<1x2x1x3xf32> loc("last")
  %5 = "onnx.Transpose"(%4) {perm = array<i64: 0, 3, 1, 2>} : (tensor<1x2x1x3xf32>) -> tensor<1x3x2x1xf32> loc("first")
  %6 = "onnx.Flatten"(%5) : (tensor<1x3x2x1xf32>) -> tensor<1x6xf32> loc("flat")
  %g = "q.constant"() {value = dense_resource<g> : tensor<27x6xf32>} : () -> tensor<27x6xf32>
  %7 = "onnx.Gemm"(%6, %g) {transB = 1 : i64} : (tensor<1x6xf32>, tensor<27x6xf32>) -> tensor<1x27xf32> loc("gemm")
  func.return %7 : tensor<1x27xf32>
}
// CHECK-NOT: onnx.Pad
// CHECK: %[[B:.*]] = "q.constant"() {value = dense_resource<b.1> : tensor<3xf32>}
// CHECK: %[[Y:.*]] = "onnx.Conv"(%x, %w, %[[B]]) {pads = array<i64: 1, 0, 1, 0>, strides = array<i64: 2, 2>}
// CHECK-SAME: loc(fused["pad", "conv", "bias"])
// CHECK-NEXT: %[[S:.*]] = "q.constant"() {value = dense_resource<shape>
// CHECK-NEXT: %[[R:.*]] = "onnx.Reshape"(%[[Y]], %[[S]]) {{.*}} loc("flat")
// CHECK-NEXT: %[[G:.*]] = "q.constant"() {value = dense_resource<g.t> : tensor<6x27xf32>}
// CHECK-NEXT: %[[Z:.*]] = "q.constant"() {value = dense_resource<g.bias> : tensor<27xf32>}
// CHECK-NEXT: %[[M:.*]] = "onnx.Gemm"(%[[R]], %[[G]], %[[Z]]) :
// CHECK-NEXT: func.return %[[M]]
