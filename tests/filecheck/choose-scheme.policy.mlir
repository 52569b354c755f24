// RUN: qcompiler opt %s -p 'calibrate,choose-scheme{policy=symmetric per-channel=false}'
func.func @main(%x: tensor<1x64x8x8xf32>) -> tensor<1x64x8x8xf32> {
  %w = "q.constant"() {value = dense_resource<w> : tensor<64x64x3x3xf32>} : () -> tensor<64x64x3x3xf32>
  %0 = "onnx.Conv"(%x, %w) {pads = array<i64: 1, 1, 1, 1>} : (tensor<1x64x8x8xf32>, tensor<64x64x3x3xf32>) -> tensor<1x64x8x8xf32> loc("conv")
  %1 = "onnx.Relu"(%0) : (tensor<1x64x8x8xf32>) -> tensor<1x64x8x8xf32> loc("relu")
  func.return %1 : tensor<1x64x8x8xf32>
}
// One scale for the weight, and the zero point in the middle even of what a ReLU leaves.
// CHECK: q.types = [!quant.uniform<u8:f32, {{[^>]*}}:128>]
// CHECK: "onnx.Conv"{{.*}} q.weight = !quant.uniform<i8<-127:127>:f32, {{[^>:]*}}>
// CHECK-NEXT: "onnx.Relu"{{.*}} q.types = [!quant.uniform<u8:f32, {{[^>]*}}:128>]
