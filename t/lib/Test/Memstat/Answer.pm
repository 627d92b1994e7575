# What tests do with an answer: pick processes, compare figures, check sums.
package Test::Memstat::Answer;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

our @EXPORT = qw(active_workers adds_up master_of near pids process_of process_with settled sum);

# Passes when the two are no further apart than the tolerance.
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

# The process with this pid.
sub process_of {
    my ($reply, $pid) = @_;
    my ($process) = grep { $_->{pid} == $pid } @{ $reply->{processes} };
    return $process // die "process $pid is not in the answer\n";
}

# A reply from a process that has answered before: its first answer loads code and memory, which the
# figures in that very answer cannot have.
sub settled {
    my ($t) = @_;
    my %answered;
    while (1) {
        my $reply = $t->fresh;
        return $reply if $answered{ $reply->{answered_by}{pid} }++ == 2;
    }
}

# Processes with these values, such as (kind => 'worker', state => 'active').
sub process_with {
    my ($reply, %values) = @_;
    return grep {
        my $process = $_;
        !grep { ($process->{$_} // '') ne $values{$_} } keys %values
    } @{ $reply->{processes} };
}

# Passes when the entries of a process's breakdown add up to what the kernel says it has; what is not
# known counts as nothing.
sub adds_up {
    my ($process, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @entries = values %{ $process->{breakdown} };
    is sum(map { $_->{resident} // 0 } @entries), $process->{system}{resident}, "$name: the residents add up";
    is sum(map { $_->{reserved} // 0 } @entries), $process->{system}{virtual}, "$name: the reserved add up";
    return;
}

# The master, as an answer has it.
sub master_of {
    my ($reply) = @_;
    my ($master) = process_with($reply, kind => 'master');
    return $master // die "no master in the answer\n";
}

# The workers of an answer that are not about to end.
sub active_workers { my ($reply) = @_; return process_with($reply, kind => 'worker', state => 'active') }

# The pids of processes, in order.
sub pids { return [ sort { $a <=> $b } map { $_->{pid} } @_ ] }

sub sum {
    my $sum = 0;
    $sum += $_ for @_;
    return $sum;
}

1;
