// Package suite runs containerd's own tests of snapshotters: against a daemon that listens on a socket, or, without
// one, against containerd's overlayfs, whose results are the measure.
//
// The suite wants a snapshotter without snapshots for each of its tests: whoever starts this program with a socket
// starts a daemon for each test, and selects it by -test.run.
package suite

import (
	"context"
	"os"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/overlay"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

func TestSnapshotter(t *testing.T) {
	socket := os.Getenv("JAUNT_SOCKET")
	if socket == "" {
		testsuite.SnapshotterSuite(t, "overlayfs", overlayfs)
		return
	}
	testsuite.SnapshotterSuite(t, "jaunt", func(ctx context.Context, _ string) (snapshots.Snapshotter, func() error, error) {
		connection, err := grpc.DialContext(ctx, "unix://"+socket, grpc.WithInsecure(), grpc.WithBlock())
		if err != nil {
			return nil, nil, err
		}
		return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "jaunt"), connection.Close, nil
	})
}

func overlayfs(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	snapshotter, err := overlay.NewSnapshotter(root)
	if err != nil {
		return nil, nil, err
	}
	return snapshotter, snapshotter.Close, nil
}
