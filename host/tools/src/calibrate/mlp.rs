//! A perceptron with one hidden layer, trained by AdamW. Every predictor is one.

use super::failure::Result;
use candle_core::{D, Device, Tensor, Var};

/// Decay of the moments and of the weights (AdamW, arXiv 1711.05101; the authors' defaults except for the last).
const BETA1: f64 = 0.9;
const BETA2: f64 = 0.99;
const EPSILON: f64 = 1e-8;
const DECAY: f64 = 1e-4;

/// `outputs = w2 relu(w1 x + b1) + b2`.
pub struct Mlp {
    /// w1 [rank, inputs], b1 `[rank]`, w2 [outputs, rank], b2 `[outputs]`.
    parameters: [Var; 4],
    /// First and second moments of each parameter.
    moments: Vec<[Tensor; 2]>,
    steps: i32,
}

/// Numbers in -1..1 that do not depend on the machine.
pub fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
}

impl Mlp {
    /// A perceptron with a random first map and a zero second map: its first outputs are the constant `bias`, the
    /// static mean.
    ///
    /// # Errors
    /// Errors of the autograd library, which do not occur with usual shapes.
    pub fn new(inputs: usize, rank: usize, bias: &[f32], seed: u64) -> Result<Self> {
        let mut state = seed;
        let bound = (3.0 / inputs as f32).sqrt();
        let w1: Vec<f32> = (0..rank * inputs).map(|_| bound * uniform(&mut state)).collect();
        let outputs = bias.len();
        Self::of([
            (w1, vec![rank, inputs]),
            (vec![0.0; rank], vec![rank]),
            (vec![0.0; outputs * rank], vec![outputs, rank]),
            (bias.to_vec(), vec![outputs]),
        ])
    }

    fn of(parameters: [(Vec<f32>, Vec<usize>); 4]) -> Result<Self> {
        let mut vars = Vec::new();
        let mut moments = Vec::new();
        for (values, shape) in parameters {
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
            moments.push([tensor.zeros_like()?, tensor.zeros_like()?]);
            vars.push(Var::from_tensor(&tensor)?);
        }
        let parameters =
            <[Var; 4]>::try_from(vars).map_err(|_| shadowllm_host::Error::Other("four parameters".into()))?;
        Ok(Mlp { parameters, moments, steps: 0 })
    }

    /// Parameters, moments and the number of steps, flattened, for [`Mlp::restore`].
    ///
    /// # Errors
    /// Errors of the autograd library, which do not occur with usual shapes.
    pub fn save(&self) -> Result<Vec<Vec<f32>>> {
        let mut all = vec![vec![self.steps as f32]];
        for (p, [m, v]) in self.parameters.iter().zip(&self.moments) {
            for t in [p.as_tensor(), m, v] {
                all.push(t.flatten_all()?.to_vec1()?);
            }
        }
        Ok(all)
    }

    /// Restores what [`Mlp::save`] returned.
    ///
    /// # Errors
    /// When the lengths do not fit.
    pub fn restore(&mut self, saved: &[Vec<f32>]) -> Result<()> {
        let bad = || shadowllm_host::Error::Other("the state of an interrupted calibration does not fit".into());
        self.steps = *saved.first().and_then(|s| s.first()).ok_or_else(bad)? as i32;
        for (i, p) in self.parameters.iter().enumerate() {
            let tensor = |j: usize| -> Result<Tensor> {
                let values = saved.get(1 + 3 * i + j).ok_or_else(bad)?;
                Ok(Tensor::from_slice(values, p.shape(), &Device::Cpu)?)
            };
            p.set(&tensor(0)?)?;
            self.moments[i] = [tensor(1)?, tensor(2)?];
        }
        Ok(())
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let [w1, b1, w2, b2] = &self.parameters;
        let hidden = x.matmul(&w1.t()?)?.broadcast_add(b1)?.relu()?;
        hidden.matmul(&w2.t()?)?.broadcast_add(b2)
    }

    /// Outputs of `n` rows, [n, outputs].
    ///
    /// # Errors
    /// When `x` is not `n` rows of inputs.
    pub fn outputs(&self, x: &[f32], n: usize) -> Result<Vec<f32>> {
        let x = Tensor::from_slice(x, (n, x.len() / n.max(1)), &Device::Cpu)?;
        Ok(self.forward(&x)?.flatten_all()?.to_vec1()?)
    }

    /// One training step on `n` rows: `slope(outputs)` replaces the outputs by the derivative of the loss with respect
    /// to them.
    ///
    /// # Errors
    /// When `x` is not `n` rows of inputs.
    pub fn step(&mut self, x: &[f32], n: usize, rate: f64, slope: &dyn Fn(&mut [f32])) -> Result<()> {
        let x = Tensor::from_slice(x, (n, x.len() / n.max(1)), &Device::Cpu)?;
        let outputs = self.forward(&x)?;
        let mut values: Vec<f32> = outputs.flatten_all()?.to_vec1()?;
        slope(&mut values);
        let slopes = Tensor::from_vec(values, outputs.shape(), &Device::Cpu)?;
        // The gradients of this product are those of the loss.
        let gradients = (outputs * slopes)?.sum(D::Minus1)?.sum_all()?.backward()?;
        self.steps += 1;
        let (correct1, correct2) = (1.0 - BETA1.powi(self.steps), 1.0 - BETA2.powi(self.steps));
        for (p, [m, v]) in self.parameters.iter().zip(&mut self.moments) {
            let Some(g) = gradients.get(p.as_tensor()) else { continue };
            *m = ((&*m * BETA1)? + (g * (1.0 - BETA1))?)?;
            *v = ((&*v * BETA2)? + (g.sqr()? * (1.0 - BETA2))?)?;
            let step = ((&*m * (1.0 / correct1))? / ((&*v * (1.0 / correct2))?.sqrt()? + EPSILON)?)?;
            p.set(&((p.as_tensor() * (1.0 - rate * DECAY))? - (step * rate)?)?)?;
        }
        Ok(())
    }

    /// w1 [rank, inputs], b1, w2 [outputs, rank], b2.
    ///
    /// # Errors
    /// Errors of the autograd library, which do not occur with usual shapes.
    pub fn weights(&self) -> Result<[Vec<f32>; 4]> {
        let flat = |i: usize| -> Result<Vec<f32>> { Ok(self.parameters[i].flatten_all()?.to_vec1()?) };
        Ok([flat(0)?, flat(1)?, flat(2)?, flat(3)?])
    }
}
