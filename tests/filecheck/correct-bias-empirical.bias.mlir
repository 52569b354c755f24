// RUN: qcompiler opt %s -p 'calibrate,choose-scheme,correct-bias,correct-bias-empirical{samples=2}'
func.func @main(%x: tensor<16x64xf32>) -> tensor<16x64xf32> {
  %w = "q.constant"() {value = dense_resource<w> : tensor<64x64xf32>} : () -> tensor<64x64xf32>
  %b = "q.constant"() {value = dense_resource<b> : tensor<64xf32>} : () -> tensor<64xf32>
  %0 = "onnx.Gemm"(%x, %w, %b) : (tensor<16x64xf32>, tensor<64x64xf32>, tensor<64xf32>) -> tensor<16x64xf32> loc("hidden")
  %1 = "onnx.Gemm"(%0, %w, %b) : (tensor<16x64xf32>, tensor<64x64xf32>, tensor<64xf32>) -> tensor<16x64xf32> loc("prediction")
  func.return %1 : tensor<16x64xf32>
}
// CHECK: // note: empirical bias correction of 1 layers: {{.*}} dB at the outputs on 2 samples
// CHECK: %[[B:.*]] = "q.constant"() {value = dense_resource<bias.corrected> : tensor<64xf32>}
// CHECK-NEXT: %[[Y:.*]] = "onnx.Gemm"(%x, %w, %[[B]]) {{.*}}q.original = {"2" = "b"}
// CHECK-NEXT: "onnx.Gemm"(%[[Y]], %w, %b)
