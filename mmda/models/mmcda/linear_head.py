"""Linear heads initialised in closed form, with learned corrections initialised at zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmda._core.checks import check_count, check_number, fail
from mmda._core.masking import zero_padding
from mmda._core.reductions import masked_mean, masked_softmax
from mmda._core.unit_rows import normalized_rows
from mmda.models.mmcda.encoders import check_width
from mmda.models.mmcda.localizer import MomentLogits

#: Number of clips above which widths in clips scale with the length of the video.
REFERENCE_CLIPS = 75


class PlainFrames(nn.Module):
    """Unchanged frame features, zero on padding: the video encoder for linear heads.

    Args:
        width: number of input and output features.

    Shape:
        ``frames`` (b, t, width), ``frame_mask`` (b, t) -> (b, t, width). Padding may hold anything.

    Raises:
        ValueError: frames of another width.

    Example:
        >>> PlainFrames(2)(torch.ones(1, 2, 2), torch.tensor([[True, False]]))
        tensor([[[1., 1.],
                 [0., 0.]]])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        check_count("PlainFrames", "width", width)
        self.width = width

    def forward(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Frames with zeros on padding."""
        check_width("PlainFrames", "frames", frames, self.width)
        return zero_padding(frames, frame_mask)


class MeanWords(nn.Module):
    """Mean of the word features: the query encoder for linear heads.

    Args:
        width: number of input and output features.

    Shape:
        ``words`` (b, l, width), ``word_mask`` (b, l) -> (b, width). Padding may hold anything; a query without a word
        gives zeros.

    Raises:
        ValueError: words of another width.

    Example:
        >>> MeanWords(1)(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        check_count("MeanWords", "width", width)
        self.width = width

    def forward(self, words: Tensor, word_mask: Tensor) -> Tensor:
        """One feature per sentence."""
        check_width("MeanWords", "words", words, self.width)
        return masked_mean(words, word_mask.unsqueeze(-1).expand_as(words), 1)


class LinearHead(nn.Module):
    r"""Several linear maps, each normalised to its own unit sphere, with a correction initialised at zero.

    .. math::

       g(x) = \Big[ \sqrt{w_1} \frac{h_1(x)}{\lVert h_1(x) \rVert}, \dots,
              \sqrt{w_m} \frac{h_m(x)}{\lVert h_m(x) \rVert} \Big], \qquad
       h_i(x) = (A_i + \Delta_i)^\top x + c_i + \delta_i + r_i(x)

    with :math:`A_i` and :math:`c_i` set by :meth:`start`, and :math:`\Delta`, :math:`\delta` and optionally a two-layer
    network r learned. Learned parameters are initialised at zero, so weight decay pulls towards the closed form. The
    inner product of two such heads is the weighted mean of the m cosines with weights w, which sum to 1 and are equal
    before :meth:`weigh`.

    Args:
        width: number of input features.
        joint: width of each map.
        members: m, number of maps.
        residual: hidden width of r; 0 disables it.
        dropout: dropout inside r.

    Shape:
        (..., width) -> (..., members * joint).

    Raises:
        ValueError: a size below 1, a negative ``residual``, a dropout outside [0, 1).

    Example:
        >>> head = LinearHead(4, 3, members=2)
        >>> head.start(0, torch.zeros(4), torch.eye(4, 3))
        >>> head(torch.tensor([0.0, 2.0, 0.0, 0.0]))[:3].mul(2**0.5).round(decimals=3).tolist()
        [0.0, 1.0, 0.0]
    """

    matrix: Tensor
    offset: Tensor
    share: Tensor

    def __init__(self, width: int, joint: int, *, members: int = 1, residual: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        for name, value in (("width", width), ("joint", joint), ("members", members)):
            check_count("LinearHead", name, value)
        check_count("LinearHead", "residual", residual, at_least=0)
        check_number("LinearHead", "dropout", dropout, at_least=0, below=1)
        self.width, self.joint, self.members = width, joint, members
        self.register_buffer("matrix", torch.randn(members * joint, width))
        self.register_buffer("offset", torch.zeros(members * joint))
        self.register_buffer("share", torch.full((members,), 1 / members))
        self.change = nn.Linear(width, members * joint)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)
        self.residual: nn.Module | None = None
        if residual:
            last = nn.Linear(residual, members * joint)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            first = nn.Linear(width, residual)
            self.residual = nn.Sequential(nn.LayerNorm(width), first, nn.ReLU(), nn.Dropout(dropout), last)

    @torch.no_grad()
    def start(self, member: int, mean: Tensor, matrix: Tensor) -> None:
        r"""Set a map :math:`h(x) = (x - \mu) M`, scaled so that the entries of M have root mean square 1.

        Args:
            member: index of the map.
            mean: :math:`\mu` (width,).
            matrix: M (width, k) with k at most ``joint``; the remaining directions are zero.

        Raises:
            ValueError: shapes that do not fit, a member out of range.
        """
        if not 0 <= member < self.members:
            fail("LinearHead.start", "member", f"be one of {self.members}", member)
        k = matrix.shape[1]
        if tuple(mean.shape) != (self.width,) or matrix.shape[0] != self.width or k > self.joint:
            rule = f"have shape ({self.width}, at most {self.joint}) and a mean of ({self.width},)"
            fail("LinearHead.start", "matrix", rule, f"{tuple(matrix.shape)} and {tuple(mean.shape)}")
        size = matrix.square().mean().sqrt()
        scaled = matrix / torch.where(size > 0, size, torch.ones_like(size))
        first = member * self.joint
        self.matrix[first : first + self.joint] = 0
        self.offset[first : first + self.joint] = 0
        self.matrix[first : first + k] = scaled.T.to(self.matrix)
        self.offset[first : first + k] = -(mean @ scaled).to(self.offset)

    @torch.no_grad()
    def weigh(self, share: Tensor) -> None:
        """Set the weights of the maps: ``share`` (members,), >= 0, normalised to sum to 1.

        Raises:
            ValueError: a wrong number of weights, a negative one, or none above 0.
        """
        if tuple(share.shape) != (self.members,):
            fail("LinearHead.weigh", "share", f"have shape ({self.members},)", tuple(share.shape))
        if not bool((share >= 0).all()) or not bool(share.sum() > 0):
            fail("LinearHead.weigh", "share", "be at least 0, with one above 0", share.tolist())
        self.share.copy_((share / share.sum()).to(self.share))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., width) to the joint space."""
        check_width("LinearHead", "x", x, self.width)
        y = nn.functional.linear(x, self.matrix + self.change.weight, self.offset + self.change.bias)
        if self.residual is not None:
            y = y + self.residual(x)
        apart = normalized_rows(y.reshape(*y.shape[:-1], self.members, self.joint))
        joined: Tensor = (apart * self.share.sqrt().unsqueeze(1)).flatten(-2)
        return joined

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Accept states of earlier versions without weights, in which all maps had equal weights."""
        state_dict.setdefault(f"{prefix}share", torch.full_like(self.share, 1 / self.members))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        return f"{self.width}, {self.joint}, members={self.members}"


class FlatLocalizer(nn.Module):
    """Placeholder for the localizer with zero logits, used if spans are decoded only from the similarity.

    Example:
        >>> FlatLocalizer()(torch.randn(1, 3), torch.ones(1, 3, dtype=torch.bool)).start
        tensor([[0., 0., 0.]])
    """

    def forward(self, similarity: Tensor, frame_mask: Tensor) -> MomentLogits:
        """Zeros of the shape of ``similarity``."""
        zero = torch.zeros_like(similarity)
        return MomentLogits(zero, zero, zero)


class NeighbourScaling(nn.Module):
    r"""Mean similarity of a frame to its nearest queries, to be subtracted from its similarity to a given query.

    .. math:: h_t = \alpha \, \frac{1}{k} \sum_{q \in N_k(f_t)} \cos(f_t, q)

    over the k nearest of a set of reference queries. This corrects for hubs, frames that are similar to every query.

    Args:
        width: number of sentence features, the input of the query head.
        references: maximum number of reference sentences.
        share: k as a fraction of the references.
        strength: :math:`\alpha` >= 0.

    Shape:
        ``frames`` (b, t, d), unit rows of the joint space -> (b, t); zeros before :meth:`keep`.

    Raises:
        ValueError: a count below 1, a share outside (0, 1], a negative strength.

    Example:
        >>> scaling = NeighbourScaling(2, references=4, strength=1.0)
        >>> scaling.keep(torch.eye(2))
        >>> scaling(torch.tensor([[[0.6, 0.8]]]), nn.Identity())
        tensor([[0.8000]])

    References:
        Conneau, Lample, Ranzato, Denoyer & Jegou, "Word Translation Without Parallel Data", ICLR 2018, section 2.3
        (cross-domain similarity local scaling, here for one modality).
    """

    sentences: Tensor
    count: Tensor

    def __init__(self, width: int, *, references: int = 512, share: float = 0.05, strength: float = 0.5) -> None:
        super().__init__()
        check_count("NeighbourScaling", "references", references)
        check_number("NeighbourScaling", "share", share, above=0, at_most=1)
        check_number("NeighbourScaling", "strength", strength, at_least=0)
        self.share, self.strength = share, strength
        self.register_buffer("sentences", torch.zeros(references, width))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def keep(self, sentences: Tensor) -> None:
        """Store at most ``references`` of the ``sentences`` (n, width), evenly spaced in their order."""
        room = len(self.sentences)
        step = torch.arange(min(room, len(sentences)), device=sentences.device)
        chosen = sentences[(step * len(sentences)) // max(1, len(step))]
        self.sentences.zero_()
        self.sentences[: len(chosen)] = chosen.to(self.sentences)
        self.count.fill_(len(chosen))

    def forward(self, frames: Tensor, query_head: nn.Module) -> Tensor:
        """``frames`` (b, t, d) of the joint space -> amounts to subtract from their cosines (b, t)."""
        count = int(self.count)
        if not count or not self.strength:
            return frames.new_zeros(frames.shape[:2])
        queries = normalized_rows(query_head(self.sentences[:count]))
        nearest = (frames @ queries.T).topk(max(1, round(self.share * count)), dim=-1).values
        scaled: Tensor = self.strength * nearest.mean(-1)
        return scaled


class QueryFeedback(nn.Module):
    r"""Move a query towards the frames that it matches in the video, and away from the video's mean.

    .. math::

       q^{(r + 1)} = \operatorname{unit} \Big( q + \beta \Big( \sum_t a_t f_t - \bar f \Big) \Big), \qquad
       a = \operatorname{softmax}_t \Big( \frac{\cos(f_t, q^{(r)}) - h_t}{\tau} \Big)

    with :math:`q^{(0)} = q`, the mean frame :math:`\bar f`, and :math:`h_t` of :class:`NeighbourScaling`. The frames of
    a moment are alike, so those matched best tell what the others look like (relevance feedback without a user). In a
    video of one scene, or where no frame stands out, the query hardly moves.

    Args:
        strength: :math:`\beta` >= 0.
        rounds: number of times that the query is moved.
        temperature: :math:`\tau` > 0.

    Shape:
        ``query`` (b, d) and ``frames`` (b, t, d), unit rows of the joint space, ``frame_mask`` and ``common`` (b, t) ->
        (b, d), unit rows. A video of equal frames changes no query.

    Raises:
        ValueError: a negative strength, a count below 1, a temperature that is not positive.

    Example:
        >>> frames = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> query, mask = torch.tensor([[0.8, 0.6]]), torch.ones(1, 2, dtype=torch.bool)
        >>> QueryFeedback(rounds=1)(query, frames, mask, torch.zeros(1, 2)).round(decimals=2)
        tensor([[0.9800, 0.1800]])

    References:
        Rocchio, "Relevance Feedback in Information Retrieval", in Salton (ed.), The SMART Retrieval System (1971).
    """

    def __init__(self, strength: float = 1.0, *, rounds: int = 2, temperature: float = 0.1) -> None:
        super().__init__()
        check_number("QueryFeedback", "strength", strength, at_least=0)
        check_count("QueryFeedback", "rounds", rounds)
        check_number("QueryFeedback", "temperature", temperature, above=0)
        self.strength, self.rounds, self.temperature = strength, rounds, temperature

    def forward(self, query: Tensor, frames: Tensor, frame_mask: Tensor, common: Tensor) -> Tensor:
        """The moved queries; ``common`` is subtracted from the cosines."""
        clean = zero_padding(frames, frame_mask)
        mean = masked_mean(clean, frame_mask.unsqueeze(2).expand_as(clean), 1)
        moved = query
        for _ in range(self.rounds):
            cosine = torch.bmm(clean, moved.unsqueeze(2)).squeeze(2)
            share = masked_softmax((cosine - common) / self.temperature, frame_mask, 1)
            step = torch.bmm(share.unsqueeze(1), clean).squeeze(1) - mean
            moved = normalized_rows(query + self.strength * step)
        return moved

    def extra_repr(self) -> str:
        return f"{self.strength:g}, rounds={self.rounds}, temperature={self.temperature:g}"


class FrameAgreement(nn.Module):
    r"""Smooth the similarities over frames that are similar and near in time (bilateral filter).

    .. math:: \bar s_t = \sum_u A_{tu} s_u, \qquad
              A_t = \operatorname{softmax}_u \Big( \frac{\cos(f_t, f_u)}{\tau} - \frac{(t - u)^2}{2 w^2} \Big)

    Unlike a running mean it preserves the boundaries of a moment, where the frames change.

    Args:
        width: w in clips; over T > 75 clips it is T / 75 times as wide.
        temperature: :math:`\tau` > 0.

    Shape:
        ``similarity`` (b, t), ``frames`` (b, t, d), unit rows, ``frame_mask`` (b, t) -> (b, t), zeros on padding.

    Raises:
        ValueError: a number that is not positive.

    Notes:
        O(b t^2 d) time and O(b t^2) memory.

    Example:
        >>> frames = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> similarity = torch.tensor([[0.9, 0.5, 0.0]])
        >>> FrameAgreement()(similarity, frames, similarity >= 0).round(decimals=2)
        tensor([[0.7000, 0.7000, 0.0000]])

    References:
        Tomasi & Manduchi, "Bilateral Filtering for Gray and Color Images", ICCV 1998.
    """

    def __init__(self, width: float = 4.0, *, temperature: float = 0.1) -> None:
        super().__init__()
        check_number("FrameAgreement", "width", width, above=0)
        check_number("FrameAgreement", "temperature", temperature, above=0)
        self.width, self.temperature = width, temperature

    def forward(self, similarity: Tensor, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """The smoothed similarities."""
        step = torch.arange(frames.shape[1], device=frames.device, dtype=frames.dtype)
        width = self.width * (frame_mask.sum(1).to(frames.dtype) / REFERENCE_CLIPS).clamp(min=1.0)
        apart = (step.unsqueeze(1) - step).square() / (2 * width.square()).view(-1, 1, 1)
        unit = zero_padding(frames, frame_mask)
        near = torch.bmm(unit, unit.transpose(1, 2)) / self.temperature - apart
        share = masked_softmax(near, frame_mask.unsqueeze(1).expand_as(near), 2)
        agreed = torch.bmm(share, zero_padding(similarity.unsqueeze(2), frame_mask)).squeeze(2)
        return torch.where(frame_mask, agreed, torch.zeros_like(agreed))

    def extra_repr(self) -> str:
        return f"{self.width:g}, temperature={self.temperature:g}"
