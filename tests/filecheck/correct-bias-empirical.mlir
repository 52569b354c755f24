// RUN: qcompiler opt %s -p 'calibrate,choose-scheme,correct-bias-empirical'
func.func @main(%x: tensor<1x64x8x8xf32>) -> tensor<1x64x8x8xf32> {
  %w = "q.constant"() {value = dense_resource<w> : tensor<64x64x3x3xf32>} : () -> tensor<64x64x3x3xf32>
  %v = "q.constant"() {value = dense_resource<v> : tensor<64x64x3x3xf32>} : () -> tensor<64x64x3x3xf32>
  %0 = "onnx.Conv"(%x, %w) {pads = array<i64: 1, 1, 1, 1>} : (tensor<1x64x8x8xf32>, tensor<64x64x3x3xf32>) -> tensor<1x64x8x8xf32> loc("hidden")
  %1 = "onnx.Conv"(%0, %v) {pads = array<i64: 1, 1, 1, 1>} : (tensor<1x64x8x8xf32>, tensor<64x64x3x3xf32>) -> tensor<1x64x8x8xf32> loc("prediction")
  func.return %1 : tensor<1x64x8x8xf32>
}
// CHECK: // note: empirical bias correction of 1 layers:
// CHECK: %[[B:.*]] = "q.constant"() {value = dense_resource<bias.corrected.1> : tensor<64xf32>}
// CHECK-NEXT: %[[Y:.*]] = "onnx.Conv"(%x, %w, %[[B]]) {{.*}} loc("hidden")
// CHECK-NEXT: "onnx.Conv"(%[[Y]], %v) {{.*}} loc("prediction")
