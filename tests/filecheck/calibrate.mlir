// RUN: qcompiler opt %s -p 'calibrate{method=mse limit=3}'
func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> {
  %0 = "onnx.Sigmoid"(%x) : (tensor<1x4xf32>) -> tensor<1x4xf32> loc("gate")
  func.return %0 : tensor<1x4xf32>
}
// CHECK: q.calibration = {data = [], median_half = {{.*}} method = "mse", model = "{{.*}}", samples = 3 : i64, {{.*}}}, q.stage = "calibrated"
// CHECK: "onnx.Sigmoid"(%x)
// -----
module attributes {q.stage = "qdq"} {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> {
    func.return %x : tensor<1x4xf32>
  }
}
// CHECK: error: pass calibrate requires a module of stage float, calibrated; it is qdq. Passes so far: none
