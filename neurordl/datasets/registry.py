"""What is known of each public data set: where it is, its checksum, size, licence and citation.

Every url and checksum here is from a source named beside it; what could not be established is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from neurordl.datasets.reading import choose

__all__ = ["REGISTRY", "DataSet", "File", "known"]


@dataclass(frozen=True)
class File:
    """A file to download: its name in the data set's folder, url, SHA-256 and size in bytes."""

    name: str
    url: str
    sha256: str
    size: int


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes
    ----------
    summary, licence, citation
        In words.
    files
        What `fetch` downloads; empty where it is embedded or another package downloads it.
    source
        Who says that these are the urls and checksums.
    loaders
        Names of the functions in ``neurordl.datasets`` that read it.
    """

    summary: str
    licence: str
    citation: str
    loaders: tuple[str, ...]
    source: str
    files: tuple[File, ...] = ()

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(file.size for file in self.files)


def known(name: str) -> DataSet:
    """The data set of a name; a name that is not known is an error that lists those that are."""
    return choose(REGISTRY, name, "data set")


def _idx(base: str, *files: tuple[str, str, int]) -> tuple[File, ...]:
    return tuple(File(name, base + name, sha256, size) for name, sha256, size in files)


_MATLAB = (
    "https://raw.githubusercontent.com/rsagroup/rsatoolbox_matlab/91ad43359c8a6355de1dd726e69038b7e798720a/"
)
_NET2BRAIN = (
    "https://raw.githubusercontent.com/m7cw5l/Net2Brain-App/959aba890710773a404bc507f24e6d66e778ec6d/"
)
_IMAGES92 = File(
    "Kriegeskorte_Neuron2008_supplementalData.mat",
    _MATLAB + "Demos/92imageData/Kriegeskorte_Neuron2008_supplementalData.mat",
    "06f21214399a5d43dc264eed19a7f4b8daf11c8622a59eec3e106064ce5e3504",
    3_603_779,
)

REGISTRY: dict[str, DataSet] = {
    "digits": DataSet(
        "1,797 handwritten digits, grey, 8 x 8, with labels; embedded, nothing to fetch",
        "not stated in scikit-learn",
        "E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI.",
        ("load_digits",),
        "scikit-learn",
    ),
    "images92": DataSet(
        "92 object images; RDMs of human IT (fMRI, 4 subjects, 2 sessions) and monkey IT",
        "LGPL-3 (the MATLAB RSA toolbox); no separate statement on the data",
        "N. Kriegeskorte et al. (2008), Neuron 60:1126-1141.",
        ("load_images92", "load_images92_rdms", "load_brain"),
        # checksums taken of the blobs of this commit, whose git hashes name their content
        "the git repository rsagroup/rsatoolbox_matlab at 91ad4335, Demos/92imageData",
        (
            _IMAGES92,
            File(
                "92_brainRDMs.mat",
                _MATLAB + "Demos/92imageData/92_brainRDMs.mat",
                "1743f90a15e895798a94318649e80e1123a7e5943a1703fa1dd7c31ea5780b7c",
                224_663,
            ),
        ),
    ),
    "cichy2014": DataSet(
        "RDMs of EVC and IT for the 92 object images (fMRI, 15 subjects)",
        "MIT (the repository); no separate statement on the data",
        "R. M. Cichy, D. Pantazis and A. Oliva (2014), Nature Neuroscience 17:455-462.",
        ("load_images92_rdms", "load_brain"),
        # as above: checksums of the blobs of this commit
        "the git repository m7cw5l/Net2Brain-App at 959aba89 (the Algonauts 2019 form of the RDMs), for the "
        "images rsagroup/rsatoolbox_matlab",
        (
            _IMAGES92,
            File(
                "92images_fmri_EVC_RDMs.gzip",
                _NET2BRAIN + "Net2Brain/data_rdm/92images/92images_fmri_EVC_RDMs.gzip",
                "b55a1b50ecc72754644520119aa89f6db67eb2578f175d7eeb056394a4c03bee",
                981_889,
            ),
            File(
                "92images_fmri_IT_RDMs.gzip",
                _NET2BRAIN + "Net2Brain/data_rdm/92images/92images_fmri_IT_RDMs.gzip",
                "f70846e64b763499640ed9c35e5a2b3ed7a8682ded9993d9ca6679aedee5106d",
                990_476,
            ),
        ),
    ),
    "haxby2001": DataSet(
        "BOLD of 6 subjects who saw faces, houses and six kinds of objects (12 runs each), with masks",
        "unknown (so nilearn's description of it)",
        "J. V. Haxby et al. (2001), Science 293:2425-2430.",
        ("load_haxby2001", "load_haxby2001_slice"),
        "nilearn.datasets.fetch_haxby, which downloads it and checks it against the server's MD5SUMS",
    ),
    "mnist": DataSet(
        "60,000 + 10,000 handwritten digits, grey, 28 x 28, with labels",
        "CC BY-SA 3.0 (as the documentation of Keras says)",
        "Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits.",
        ("load_mnist",),
        "TensorFlow Datasets, url_checksums/mnist.txt (urls, sizes, SHA-256)",
        _idx(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            (
                "train-images-idx3-ubyte.gz",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                9_912_422,
            ),
            (
                "train-labels-idx1-ubyte.gz",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                28_881,
            ),
            (
                "t10k-images-idx3-ubyte.gz",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                1_648_877,
            ),
            (
                "t10k-labels-idx1-ubyte.gz",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                4_542,
            ),
        ),
    ),
    "fashion_mnist": DataSet(
        "60,000 + 10,000 images of clothes, grey, 28 x 28, with labels",
        "MIT (as the documentation of Keras says)",
        "H. Xiao, K. Rasul and R. Vollgraf (2017), Fashion-MNIST, arXiv:1708.07747.",
        ("load_fashion_mnist",),
        "TensorFlow Datasets, url_checksums/fashion_mnist.txt (urls, sizes, SHA-256)",
        _idx(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            (
                "train-images-idx3-ubyte.gz",
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                26_421_880,
            ),
            (
                "train-labels-idx1-ubyte.gz",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                29_515,
            ),
            (
                "t10k-images-idx3-ubyte.gz",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                4_422_102,
            ),
            (
                "t10k-labels-idx1-ubyte.gz",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                5_148,
            ),
        ),
    ),
    "cifar10": DataSet(
        "50,000 + 10,000 photographs of 10 classes, RGB, 32 x 32",
        "none stated",
        "A. Krizhevsky (2009), Learning multiple layers of features from tiny images.",
        ("load_cifar10",),
        # the python version of the archive holds pickles, and is not used
        "TensorFlow Datasets, url_checksums/cifar10.txt (url, size, SHA-256)",
        (
            File(
                "cifar-10-binary.tar.gz",
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                170_052_171,
            ),
        ),
    ),
    "cifar100": DataSet(
        "50,000 + 10,000 photographs of 100 fine and 20 coarse classes, RGB, 32 x 32",
        "none stated",
        "A. Krizhevsky (2009), Learning multiple layers of features from tiny images.",
        ("load_cifar100",),
        "TensorFlow Datasets, url_checksums/cifar100.txt (url, size, SHA-256)",
        (
            File(
                "cifar-100-binary.tar.gz",
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                168_513_733,
            ),
        ),
    ),
}
