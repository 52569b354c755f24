// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2x!quant.uniform<i8<-129:127>:f32, 1.0>>) {
  func.return
}
// CHECK: error: {{.*}}expected a storage range inside -128:127, got -129:127
