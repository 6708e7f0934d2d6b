"""Flags of the commands whose work a cluster can share. Imports nothing heavy."""

from dataclasses import dataclass, field

from ..machine.ray_cluster import RayCluster


@dataclass
class ClusterArguments:
    """Machines that share the work."""

    ray_address: str | None = field(
        default=None,
        metadata={
            "help": "Share the work among the machines of a Ray cluster: its host:port, or auto for the cluster of "
            "this machine. They must see the same files. Default: this machine alone."
        },
    )
    ray_workers: int | None = field(
        default=None,
        metadata={"help": "Processes on the cluster. Default: one for each GPU, or for each core if there is no GPU."},
    )

    def __post_init__(self):
        if self.ray_workers is not None and self.ray_address is None:
            raise ValueError("--ray_workers is the number of processes of a Ray cluster: pass its --ray_address.")

    def cluster(self, uses_gpus: bool, threads: int | None = None) -> RayCluster | None:
        """
        Args:
            uses_gpus: whether the work computes with models.
            threads: cores for each process. Default: one.
        """
        if self.ray_address is None:
            return None
        return RayCluster(self.ray_address, self.ray_workers, uses_gpus, threads or 1)
