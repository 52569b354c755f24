// RUN: qcompiler opt %s -p 'insert-qdq'
!u = !quant.uniform<u8:f32, 5.0e-02:100>
module attributes {q.stage = "chosen"} {
  func.func @main(%x: tensor<1x4xf32>) -> (tensor<1x4xf32>, tensor<1x4xf32>) {
    %0 = "onnx.Relu"(%x) {q.float = "a reason", q.types = [!u], q.why = "why"} : (tensor<1x4xf32>) -> tensor<1x4xf32> loc("float")
    %1 = "onnx.Sigmoid"(%0) {q.integer} : (tensor<1x4xf32>) -> tensor<1x4xf32> loc("integer")
    %2 = "onnx.Erf"(%0) {q.float = "a reason"} : (tensor<1x4xf32>) -> tensor<1x4xf32> loc("float too")
    func.return %1, %2 : tensor<1x4xf32>, tensor<1x4xf32>
  }
}
// Only the integer reader gets the stored value.
// CHECK: %[[Y:.*]] = "onnx.Relu"(%x) {q.float = "a reason"}
// CHECK-NEXT: %[[Q:.*]] = "q.quantize"(%[[Y]]) {q.why = "why"}
// CHECK-NEXT: %[[D:.*]] = "q.dequantize"(%[[Q]])
// CHECK-NEXT: "onnx.Sigmoid"(%[[D]])
// CHECK-NEXT: "onnx.Erf"(%[[Y]]) {q.float = "a reason"}
