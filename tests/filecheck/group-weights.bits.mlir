// RUN: qcompiler opt %s -p 'calibrate,choose-scheme,group-weights{group=16 bits=4}'
func.func @main(%x: tensor<64x64xf32>) -> tensor<64x64xf32> {
  %w = "q.constant"() {value = dense_resource<w> : tensor<64x64xf32>} : () -> tensor<64x64xf32>
  %0 = "onnx.MatMul"(%x, %w) : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32> loc("product")
  %1 = "onnx.MatMul"(%0, %w) : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32> loc("last")
  func.return %1 : tensor<64x64xf32>
}
// CHECK: !q0 = !quant.uniform<i4<-7:7>:f32:{0:16, 1:1}, {
// CHECK: "onnx.MatMul"(%x, %w) {{.*}}q.weight = !q0{{.*}} loc("product")
