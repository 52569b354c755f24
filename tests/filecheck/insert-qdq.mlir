// RUN: qcompiler opt %s -p 'insert-qdq'
!u = !quant.uniform<u8:f32, 5.0e-02:100>
!v = !quant.uniform<u8:f32, 2.5e-02>
!w = !quant.uniform<i8<-127:127>:f32:0, {1.0e-02, 2.0e-02}>
module attributes {q.stage = "chosen"} {
  func.func @main(%x: tensor<1x3x4x4xf32>) -> (tensor<1x2x4x4xf32>, tensor<1x3x4x4xf32>) attributes {q.types = [!u], q.why = ["the reason"]} {
    %w = "q.constant"() {value = dense_resource<w> : tensor<2x3x1x1xf32>} : () -> tensor<2x3x1x1xf32>
    %b = "q.constant"() {value = dense_resource<b> : tensor<2xf32>} : () -> tensor<2xf32>
    %0 = "onnx.Conv"(%x, %w, %b) {q.integer, q.weight = !w, q.why_weight = "per channel"} : (tensor<1x3x4x4xf32>, tensor<2x3x1x1xf32>, tensor<2xf32>) -> tensor<1x2x4x4xf32> loc("conv")
    %1 = "onnx.Relu"(%0) {q.integer, q.types = [!v], q.why = "one-sided"} : (tensor<1x2x4x4xf32>) -> tensor<1x2x4x4xf32> loc("relu")
    %2 = "onnx.Erf"(%x) {q.float = "a reason"} : (tensor<1x3x4x4xf32>) -> tensor<1x3x4x4xf32> loc("float")
    func.return %1, %2 : tensor<1x2x4x4xf32>, tensor<1x3x4x4xf32>
  }
}
// CHECK: q.stage = "qdq"
// CHECK-NEXT: func.func @main(%x: tensor<1x3x4x4xf32>) -> (tensor<1x2x4x4xf32>, tensor<1x3x4x4xf32>) {
// CHECK-NEXT: %[[QX:.*]] = "q.quantize"(%x) {q.why = "the reason"} {{.*}}!quant.uniform<u8:f32, 5.0e-02:100>> loc("input0")
// CHECK-NEXT: %[[X:.*]] = "q.dequantize"(%[[QX]])
// CHECK: %[[QW:.*]] = "q.constant"() {q.why = "per channel", value = dense_resource<w.i8>
// CHECK-NEXT: %[[W:.*]] = "q.dequantize"(%[[QW]])
// CHECK-NEXT: %[[QB:.*]] = "q.constant"() {value = dense_resource<b.i32> {{.*}}!quant.uniform<i32:f32:0, {5.0e-04, 1.0e-03}>
// CHECK-NEXT: %[[B:.*]] = "q.dequantize"(%[[QB]])
// CHECK-NEXT: %[[Y:.*]] = "onnx.Conv"(%[[X]], %[[W]], %[[B]]) : {{.*}} loc("conv")
// CHECK-NEXT: %[[R:.*]] = "onnx.Relu"(%[[Y]]) : {{.*}} loc("relu")
// CHECK-NEXT: %[[QR:.*]] = "q.quantize"(%[[R]]) {q.why = "one-sided"} {{.*}} loc("relu")
// CHECK-NEXT: %[[D:.*]] = "q.dequantize"(%[[QR]])
// CHECK-NEXT: %[[F:.*]] = "onnx.Erf"(%x) {q.float = "a reason"}
// CHECK-NEXT: func.return %[[D]], %[[F]]
