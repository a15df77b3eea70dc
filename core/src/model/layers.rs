//! The weights of a model, looked up in the image once for a session.

use crate::arena::Arena;
use crate::error::Error;
use crate::format::{BLOCK, Matrix};
use crate::image::arch::{Attention, Block, HeadNorm, MAX_ROPES, Mlp, Op, Router};
use crate::image::{Architecture, Experts, Image, Role};
use crate::ops::feed_forward::Projection;
use crate::ops::residual::{ATTENTION_NORMS, BlockNorms, MLP_NORMS, NormWeights};

/// The weights that do not belong to a layer.
#[derive(Clone, Copy)]
pub struct GlobalWeights<'a> {
    /// Token embeddings.
    pub embed: Matrix<'a>,
    /// Learned positions, [positions, d_model].
    pub positions: Option<&'a [f32]>,
    /// Embedding projection.
    pub project_in: Option<Matrix<'a>>,
    /// Tables of inverse rotary frequencies.
    pub ropes: [Option<&'a [f32]>; MAX_ROPES],
    /// Norm before the output matrix.
    pub norm: Option<NormWeights<'a>>,
    /// Output projection.
    pub project_out: Option<Matrix<'a>>,
    /// Output matrix and its bias.
    pub output: Projection<'a>,
    /// The sketch of the output matrix.
    pub sketch: Option<Matrix<'a>>,
}

/// A layer.
#[derive(Clone, Copy)]
pub struct LayerWeights<'a, 'm> {
    /// Its blocks, in order.
    pub blocks: &'m [BlockWeights<'a, 'm>],
    /// Whether all blocks read the layer's input.
    pub parallel: bool,
}

impl<'a> LayerWeights<'a, '_> {
    /// The router of a mixture, if it reads the layer's input.
    pub fn early(&self) -> Option<&RouterWeights<'a>> {
        self.blocks.iter().find_map(|block| match &block.op {
            OpWeights::Mixture(w) if w.router.shape.early => Some(&w.router),
            _ => None,
        })
    }
}

/// A block: the norms around its operation, and the operation.
#[derive(Clone, Copy)]
pub struct BlockWeights<'a, 'm> {
    /// The norms.
    pub norms: BlockNorms<'a>,
    /// The operation.
    pub op: OpWeights<'a, 'm>,
}

/// The operation of a block.
#[derive(Clone, Copy)]
pub enum OpWeights<'a, 'm> {
    /// Attention.
    Attention(AttentionWeights<'a>),
    /// A feed-forward network.
    Mlp(MlpWeights<'a>),
    /// A mixture of feed-forward networks; by reference, because it is twice as large as the other variants.
    Mixture(&'m MixtureWeights<'a>),
}

/// Attention's shape and weights.
#[derive(Clone, Copy)]
pub struct AttentionWeights<'a> {
    /// The shape.
    pub shape: Attention,
    /// Query projection.
    pub q: Projection<'a>,
    /// Key projection.
    pub k: Projection<'a>,
    /// Value projection.
    pub v: Projection<'a>,
    /// Output projection.
    pub o: Projection<'a>,
    /// RMS norms of queries and keys.
    pub head_norms: Option<(&'a [f32], &'a [f32])>,
    /// The sinks: for each head a score that has no value.
    pub sinks: Option<&'a [f32]>,
}

/// A feed-forward network's shape and weights.
#[derive(Clone, Copy)]
pub struct MlpWeights<'a> {
    /// The shape.
    pub shape: Mlp,
    /// Gate, in gated networks.
    pub gate: Option<Projection<'a>>,
    /// Up projection.
    pub up: Projection<'a>,
    /// Down projection.
    pub down: Projection<'a>,
}

/// A router's shape and weights.
#[derive(Clone, Copy)]
pub struct RouterWeights<'a> {
    /// The shape.
    pub shape: Router,
    /// [experts, d_model].
    pub matrix: Projection<'a>,
    /// A bias of the experts' scores that affects only which experts are chosen, not their shares.
    pub choice_bias: Option<&'a [f32]>,
}

/// The matrices and biases of all experts.
#[derive(Clone, Copy)]
struct ExpertProjection<'a> {
    matrices: Experts<'a>,
    /// [experts, outputs].
    biases: Option<&'a [f32]>,
    experts: usize,
}

/// A mixture of experts.
#[derive(Clone, Copy)]
pub struct MixtureWeights<'a> {
    /// The shape; its neurons are those of one expert.
    pub shape: Mlp,
    /// The router, which chooses experts.
    pub router: RouterWeights<'a>,
    gate: Option<ExpertProjection<'a>>,
    up: ExpertProjection<'a>,
    down: ExpertProjection<'a>,
    /// The expert that every token uses.
    pub shared: Option<MlpWeights<'a>>,
    /// A router of one output whose sigmoid is the shared expert's share, [1, d_model].
    pub shared_router: Option<Matrix<'a>>,
}

const MLP_ROLES: [(Role, Option<Role>); 3] =
    [(Role::Gate, Some(Role::GateBias)), (Role::Up, Some(Role::UpBias)), (Role::Down, Some(Role::DownBias))];
const SHARED_ROLES: [(Role, Option<Role>); 3] =
    [(Role::SharedGate, None), (Role::SharedUp, None), (Role::SharedDown, None)];

/// Looks up the tensors of a layer.
struct Lookup<'i, 'a> {
    image: &'i Image<'a>,
    layer: usize,
}

impl<'a> Lookup<'_, 'a> {
    fn matrix(&self, role: Role) -> Result<Matrix<'a>, Error> {
        self.image.matrix(role, self.layer).ok_or(Error::MissingTensor(role.name()))
    }

    fn vector(&self, role: Role) -> Option<&'a [f32]> {
        self.image.vector(role, self.layer)
    }

    fn projection(&self, role: Role, bias: Option<Role>) -> Result<Projection<'a>, Error> {
        Ok(Projection { matrix: self.matrix(role)?, bias: bias.and_then(|bias| self.vector(bias)) })
    }

    fn experts(&self, role: Role, bias: Role, router: &Router) -> Result<ExpertProjection<'a>, Error> {
        let matrices = self.image.experts_matrix(role, self.layer).ok_or(Error::MissingTensor(role.name()))?;
        Ok(ExpertProjection { matrices, biases: self.vector(bias), experts: router.experts })
    }

    fn attention(&self, shape: &Attention) -> Result<AttentionWeights<'a>, Error> {
        let norms = self.vector(Role::QNorm).zip(self.vector(Role::KNorm));
        Ok(AttentionWeights {
            shape: *shape,
            q: self.projection(Role::Q, Some(Role::QBias))?,
            k: self.projection(Role::K, Some(Role::KBias))?,
            v: self.projection(Role::V, Some(Role::VBias))?,
            o: self.projection(Role::O, Some(Role::OBias))?,
            head_norms: norms.filter(|_| shape.head_norm != HeadNorm::None),
            sinks: self.vector(Role::Sinks),
        })
    }

    /// `roles` are those of gate, up and down with their biases.
    fn mlp(&self, shape: &Mlp, roles: &[(Role, Option<Role>); 3]) -> Result<MlpWeights<'a>, Error> {
        let get = |(role, bias): (Role, Option<Role>)| self.projection(role, bias);
        let gate = if shape.gated { Some(get(roles[0])?) } else { None };
        Ok(MlpWeights { shape: *shape, gate, up: get(roles[1])?, down: get(roles[2])? })
    }

    fn router(&self, shape: &Router) -> Result<RouterWeights<'a>, Error> {
        let matrix = self.projection(Role::Router, Some(Role::RouterBias))?;
        Ok(RouterWeights { shape: *shape, matrix, choice_bias: self.vector(Role::RouterChoiceBias) })
    }

    fn mixture(&self, shape: &Mlp, router: &Router) -> Result<MixtureWeights<'a>, Error> {
        let gate = match shape.gated {
            true => Some(self.experts(Role::Gate, Role::GateBias, router)?),
            false => None,
        };
        let shared = Mlp { neurons: router.shared, group: BLOCK, router: None, ..*shape };
        let shared = if router.shared > 0 { Some(self.mlp(&shared, &SHARED_ROLES)?) } else { None };
        Ok(MixtureWeights {
            shape: *shape,
            router: self.router(router)?,
            gate,
            up: self.experts(Role::Up, Role::UpBias, router)?,
            down: self.experts(Role::Down, Role::DownBias, router)?,
            shared,
            shared_router: if router.shared_gate { Some(self.matrix(Role::SharedRouter)?) } else { None },
        })
    }

    /// `mixtures` are those of this block and the blocks after it.
    fn block<'m>(
        &self,
        block: &Block,
        mixtures: &mut core::slice::Iter<'m, MixtureWeights<'a>>,
    ) -> Result<BlockWeights<'a, 'm>, Error> {
        let (op, roles) = match &block.op {
            Op::Attention(a) => (OpWeights::Attention(self.attention(a)?), &ATTENTION_NORMS),
            Op::Mlp(m) if m.router.is_some() => {
                (OpWeights::Mixture(mixtures.next().ok_or(Error::MissingTensor("router"))?), &MLP_NORMS)
            }
            Op::Mlp(m) => (OpWeights::Mlp(self.mlp(m, &MLP_ROLES)?), &MLP_NORMS),
        };
        Ok(BlockWeights { norms: BlockNorms::get(self.image, &block.norms, roles, self.layer)?, op })
    }
}

/// The blocks of all layers, in order.
fn blocks<'i>(arch: &'i Architecture) -> impl Iterator<Item = (usize, Block)> + use<'i> {
    let of = |layer: usize| arch.layer(layer).blocks.into_iter().flatten().map(move |block| (layer, block));
    (0..arch.globals().layers).flat_map(of)
}

/// All mixtures of experts with their layers.
fn mixtures<'i>(arch: &'i Architecture) -> impl Iterator<Item = (usize, Mlp, Router)> + use<'i> {
    blocks(arch).filter_map(|(layer, block)| match block.op {
        Op::Mlp(m) => m.router.map(|router| (layer, m, router)),
        Op::Attention(_) => None,
    })
}

/// The weights of all layers, in memory of the arena.
///
/// # Errors
/// [`Error::MissingTensor`]; [`Error::MemoryTooSmall`].
pub fn resolve<'a: 'm, 'm>(arena: &mut Arena<'m>, image: &Image<'a>) -> Result<&'m [LayerWeights<'a, 'm>], Error> {
    let arch = image.arch();
    let at = |layer: usize| Lookup { image, layer };
    let none = Error::MissingTensor("block");
    let mut each = mixtures(arch);
    let mixed: &'m [MixtureWeights<'a>] = arena.fill(mixtures(arch).count(), |_| {
        let (layer, mlp, router) = each.next().ok_or(none)?;
        at(layer).mixture(&mlp, &router)
    })?;
    let (mut each, mut mixed) = (blocks(arch), mixed.iter());
    let mut all: &'m [BlockWeights<'a, 'm>] = arena.fill(blocks(arch).count(), |_| {
        let (layer, block) = each.next().ok_or(none)?;
        at(layer).block(&block, &mut mixed)
    })?;
    arena.fill(arch.globals().layers, |number| {
        let layer = arch.layer(number);
        let blocks;
        (blocks, all) = all.split_at_checked(layer.blocks().count()).ok_or(none)?;
        Ok(LayerWeights { blocks, parallel: layer.parallel })
    })
}

impl<'a> GlobalWeights<'a> {
    /// The weights that do not belong to a layer.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn resolve(image: &Image<'a>) -> Result<Self, Error> {
        let get = Lookup { image, layer: 0 };
        let embed = get.matrix(Role::Embed)?;
        let norm = image.arch().globals().final_norm;
        Ok(GlobalWeights {
            embed,
            positions: get.vector(Role::EmbedPositions),
            project_in: image.matrix(Role::ProjectIn, 0),
            ropes: core::array::from_fn(|table| image.vector(Role::RopeFrequencies, table)),
            norm: NormWeights::get(image, norm, [Role::FinalNorm, Role::FinalNormBias], 0)?,
            project_out: image.matrix(Role::ProjectOut, 0),
            output: Projection {
                matrix: image.matrix(Role::Output, 0).unwrap_or(embed),
                bias: get.vector(Role::OutputBias),
            },
            sketch: image.matrix(Role::OutputSketch, 0),
        })
    }
}

impl<'a> ExpertProjection<'a> {
    fn of(&self, expert: usize) -> Option<Projection<'a>> {
        let bias = self.biases.and_then(|all| all.chunks_exact(all.len() / self.experts.max(1)).nth(expert));
        Some(Projection { matrix: self.matrices.of(expert)?, bias })
    }
}

impl<'a> MixtureWeights<'a> {
    /// An expert's weights.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] when there is no such expert.
    pub fn expert(&self, expert: usize) -> Result<MlpWeights<'a>, Error> {
        let get = |p: &ExpertProjection<'a>| p.of(expert).ok_or(Error::MissingTensor("an expert"));
        let gate = self.gate.as_ref().map(get).transpose()?;
        Ok(MlpWeights { shape: self.shape, gate, up: get(&self.up)?, down: get(&self.down)? })
    }
}
