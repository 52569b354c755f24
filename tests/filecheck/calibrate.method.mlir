// RUN: qcompiler opt %s -p 'calibrate{method=guess}'
func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> {
  func.return %x : tensor<1x4xf32>
}
// CHECK: error: unknown calibration method 'guess': expected one of minmax, moving-average, percentile, entropy, mse, outlier
