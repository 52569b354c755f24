// RUN: qcompiler opt %s -p 'calibrate,apply-recipe{keep-float=kept},choose-scheme'
func.func @main(%x: tensor<1x64x8x8xf32>) -> (tensor<1x64x8x8xf32>, tensor<1x64x8x8xf32>) {
  %w = "q.constant"() {value = dense_resource<w> : tensor<64x64x3x3xf32>} : () -> tensor<64x64x3x3xf32>
  %s = "q.constant"() {value = dense_resource<s> : tensor<64xf32>} : () -> tensor<64xf32>
  %0 = "onnx.Conv"(%x, %w) {pads = array<i64: 1, 1, 1, 1>} : (tensor<1x64x8x8xf32>, tensor<64x64x3x3xf32>) -> tensor<1x64x8x8xf32> loc("conv")
  %1 = "onnx.Relu"(%0) : (tensor<1x64x8x8xf32>) -> tensor<1x64x8x8xf32> loc("relu")
  %2 = "onnx.Transpose"(%1) {perm = array<i64: 0, 1, 3, 2>} : (tensor<1x64x8x8xf32>) -> tensor<1x64x8x8xf32> loc("moved")
  %3 = "onnx.Conv"(%2, %w) {pads = array<i64: 1, 1, 1, 1>} : (tensor<1x64x8x8xf32>, tensor<64x64x3x3xf32>) -> tensor<1x64x8x8xf32> loc("last")
  %4 = "onnx.Conv"(%2, %w) {pads = array<i64: 1, 1, 1, 1>} : (tensor<1x64x8x8xf32>, tensor<64x64x3x3xf32>) -> tensor<1x64x8x8xf32> loc("kept")
  %5 = "onnx.InstanceNormalization"(%4, %s, %s) : (tensor<1x64x8x8xf32>, tensor<64xf32>, tensor<64xf32>) -> tensor<1x64x8x8xf32> loc("norm")
  %6 = "onnx.Abs"(%5) : (tensor<1x64x8x8xf32>) -> tensor<1x64x8x8xf32> loc("lonely")
  func.return %3, %6 : tensor<1x64x8x8xf32>, tensor<1x64x8x8xf32>
}
// CHECK: !q0 = !quant.uniform<i8<-127:127>:f32:0, {
// CHECK: q.stage = "chosen"
// CHECK-NEXT: func.func @main{{.*}} attributes {q.numbers = {{.*}}, q.types = [!quant.uniform<u8:f32, {{.*}}:128>], q.why = ["symmetric: {{.*}} minmax range
// CHECK: "onnx.Conv"{{.*}} q.integer, {{.*}} q.weight = !q0, q.why_weight = "symmetric per channel in -127..127: {{.*}} loc("conv")
// CHECK-NEXT: "onnx.Relu"{{.*}} q.types = [!quant.uniform<u8:f32, [[S:[^>]*]]>], q.why = "affine: {{.*}} shared by 2 tensors"
// CHECK-NEXT: "onnx.Transpose"{{.*}} q.types = [!quant.uniform<u8:f32, [[S]]>], q.why = "affine: {{.*}} shared by 2 tensors"
// CHECK-NEXT: "onnx.Conv"{{.*}} q.integer, {{.*}} loc("last")
// CHECK-NEXT: "onnx.Conv"{{.*}} q.float = "kept in float by the recipe (float32)"{{.*}} loc("kept")
// CHECK-NEXT: "onnx.InstanceNormalization"{{.*}}q.float = "InstanceNormalization has no integer form"
// CHECK-NEXT: "onnx.Abs"{{.*}}q.float = "between float operations, where quantizing would only cost"
