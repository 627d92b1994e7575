# Functions for tests of an answer: select processes, compare figures, check sums.
package Test::Memstat::Answer;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

our @EXPORT = qw(active_workers adds_up master_of near pids process_of process_with settled sum);

# Passes if two figures differ by at most the tolerance.
sub near {
    my ($got, $expected, $tolerance, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return pass($name)
        if defined $got && defined $expected && abs($got - $expected) <= $tolerance;
    fail($name);
    diag sprintf '    got %s, expected %s, give or take %s', $got // 'null', $expected // 'null',
        $tolerance;
    return;
}

# Returns the process with this pid.
sub process_of {
    my ($reply, $pid) = @_;
    my ($process) = grep { $_->{pid} == $pid } @{ $reply->{processes} };
    return $process // die "process $pid is not in the answer\n";
}

# Returns a reply from a process that has answered before. Its first answer loads code and memory that the
# figures in that answer do not include.
sub settled {
    my ($t) = @_;
    my %answered;
    while (1) {
        my $reply = $t->fresh;
        return $reply if $answered{ $reply->{answered_by}{pid} }++ == 2;
    }
}

# Returns the processes with these values, such as (kind => 'worker', state => 'active').
sub process_with {
    my ($reply, %values) = @_;
    return grep {
        my $process = $_;
        !grep { ($process->{$_} // '') ne $values{$_} } keys %values
    } @{ $reply->{processes} };
}

# Passes if the entries of a process's breakdown add up to the kernel's figures. Unknown entries count
# as 0.
sub adds_up {
    my ($process, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @entries = values %{ $process->{breakdown} };
    is sum(map { $_->{resident} // 0 } @entries), $process->{system}{resident}, "$name: the residents add up";
    is sum(map { $_->{reserved} // 0 } @entries), $process->{system}{virtual}, "$name: the reserved add up";
    return;
}

# Returns the master in an answer.
sub master_of {
    my ($reply) = @_;
    my ($master) = process_with($reply, kind => 'master');
    return $master // die "no master in the answer\n";
}

# Returns the workers in an answer that are not shutting down.
sub active_workers { my ($reply) = @_; return process_with($reply, kind => 'worker', state => 'active') }

# Returns the sorted pids of processes.
sub pids { return [ sort { $a <=> $b } map { $_->{pid} } @_ ] }

sub sum {
    my $sum = 0;
    $sum += $_ for @_;
    return $sum;
}

1;
