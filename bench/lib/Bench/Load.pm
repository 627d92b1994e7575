# Load: wrk on a server with one worker, and what the worker took for it.
package Bench::Load;

use strict;
use warnings;

use Exporter 'import';
use File::Temp;

use Bench qw(processors quick);
use Test::Memstat::Proc qw(read_file);

our @EXPORT_OK = qw(load one_worker pairs);

my $SECONDS     = quick(3, 1);
my $CONNECTIONS = 16;

# Prints exact figures, because wrk's own output is rounded. Latencies are in microseconds.
my $DONE = File::Temp->new(SUFFIX => '.lua');
print $DONE <<'END';
done = function(summary, latency)
    local errors = 0
    for _, count in pairs(summary.errors) do errors = errors + count end
    print("figures", summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors)
end
END
close $DONE or die "cannot write: $!\n";

# With two processors, the worker and wrk each have their own.
my @WRK = (processors() > 1 ? qw(taskset -c 1) : (), 'wrk', '-t1', "-c$CONNECTIONS");
my $PINNED = processors() > 1 ? 'worker_cpu_affinity 01;' : '';

# Returns the main_config of a server under load.
sub one_worker { return "worker_processes 1;\n$PINNED\n" }

# Puts a server under load at a path. Returns per_second (requests), p50 and p99 (latencies in seconds),
# and cpu (the worker's CPU time per request in seconds, from its schedstat).
sub load {
    my ($t, $path) = @_;
    my ($worker) = $t->workers;
    wrk($t, $path, 1);
    my $before  = on_processor($worker);
    my $figures = wrk($t, $path, $SECONDS);
    $figures->{cpu} = (on_processor($worker) - $before) / $figures->{requests};
    return $figures;
}

sub wrk {
    my ($t, $path, $seconds) = @_;
    my $said = `@WRK -d${seconds}s -s $DONE '@{[ $t->base . $path ]}' 2>&1`;
    my ($requests, $duration, $p50, $p99, $errors) = map { split } $said =~ /^figures\s+(.*)$/m;
    die "wrk: $said\n" unless $requests && !$errors;
    return { requests => $requests, per_second => 1e6 * $requests / $duration, p50 => $p50 / 1e6, p99 => $p99 / 1e6 };
}

sub on_processor {
    my ($pid) = @_;
    my ($nanoseconds) = split ' ', read_file("/proc/$pid/schedstat") // die "worker $pid is gone\n";
    return $nanoseconds / 1e9;
}

# Compares two servers in a number of pairs. Each pair has two new servers, and the order alternates, so
# that neither other load on the machine nor the layout of memory favours one of them. Returns a hash of
# lists: the ratio of the second to the first in each pair, and as "first" the requests per second of the
# first. start: two functions that start a server.
sub pairs {
    my ($count, $path, @start) = @_;
    my %ratios;
    for my $pair (1 .. $count) {
        my @servers = map { $_->() } @start;
        my @order   = $pair % 2 ? (0, 1) : (1, 0);
        my @figures;
        $figures[$_] = load($servers[$_], $path) for @order;
        push @{ $ratios{$_} }, $figures[1]{$_} / $figures[0]{$_} for qw(per_second p50 p99 cpu);
        push @{ $ratios{first} }, $figures[0]{per_second};
    }
    return \%ratios;
}

1;
