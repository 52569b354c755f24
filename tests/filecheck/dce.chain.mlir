// RUN: qcompiler opt %s -p 'dce'
func.func @main(%x: tensor<4xf32>) -> tensor<2xf32> {
  %0 = "onnx.Abs"(%x) : (tensor<4xf32>) -> tensor<4xf32> loc("dead with its reader")
  %1 = "onnx.Exp"(%0) : (tensor<4xf32>) -> tensor<4xf32> loc("dead")
  %2, %3 = "onnx.Split"(%x) {num_outputs = 2 : i64} : (tensor<4xf32>) -> (tensor<2xf32>, tensor<2xf32>) loc("one result is read")
  func.return %3 : tensor<2xf32>
}
// CHECK: func.func
// CHECK-NEXT: %[[A:.*]], %[[B:.*]] = "onnx.Split"(%x)
// CHECK-NEXT: func.return %[[B]]
