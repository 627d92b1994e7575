# Functions for tests of pools: the pools of all processes, and sums over their creators.
package Test::Memstat::Pools;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

use Test::Memstat::Answer;

our @EXPORT = qw(grown has of_creators pools_of);

my @SUMS = qw(live created destroyed reset bytes unused large_bytes large_count);

# Returns the pools of every process that reports them, by pid, after checks of everything that must always
# be true.
sub pools_of {
    my ($reply) = @_;
    my %pools;
    my @wrong;
    for my $process (@{ $reply->{processes} }) {
        my $pools = $process->{pools} // next;
        my $pid = $process->{pid};
        $pools{$pid} = $pools;
        for my $figure (@SUMS) {
            my $sum = sum(map { $_->{$figure} } @{ $pools->{by_creator} });
            push @wrong, "$pid: $figure $pools->{$figure}, by creators $sum" if $sum != $pools->{$figure};
        }
        for my $creator (@{ $pools->{by_creator} }) {
            my $live = $creator->{created} - $creator->{destroyed};
            push @wrong, "$pid: $creator->{live} live, not $live" if $creator->{live} != $live;
            my $sizes = sum(values %{ $creator->{sizes} });
            push @wrong, "$pid: $creator->{destroyed} destroyed, $sizes by size"
                if $sizes != $creator->{destroyed};
            push @wrong, "$pid: $creator->{unused} unused of $creator->{bytes}"
                if $creator->{unused} > $creator->{bytes};
        }
        my $allocator = $process->{allocator};
        my $held = $pools->{bytes} + $pools->{large_bytes};
        push @wrong, "$pid: $held held, $allocator->{pools} in the allocator"
            if $held != $allocator->{pools};
        push @wrong, "$pid: $held held, $allocator->{in_use} in use"
            if defined $allocator->{in_use} && $held > $allocator->{in_use};
        push @wrong, "$pid: hooks $process->{hooks}{pool}" if $process->{hooks}{pool} ne 'on';
    }
    is join("\n", @wrong), '', 'the figures fit together';
    return \%pools;
}

# Returns the sum of a figure over all processes' creators with these values.
sub of_creators {
    my ($pools, $figure, %values) = @_;
    return sum(map { $_->{$figure} } grep { has($_, %values) } map { @{ $_->{by_creator} } } values %$pools);
}

sub has {
    my ($thing, %values) = @_;
    my $is = sub { my ($is, $value) = @_; return ref $value ? $is =~ $value : $is eq $value };
    return !grep { !$is->($thing->{$_} // '', $values{$_}) } keys %values;
}

# Returns how many pools the creators with these values create while a function runs.
sub grown {
    my ($t, $do, %values) = @_;
    my $before = of_creators(pools_of($t->fresh), 'created', %values);
    $do->();
    return of_creators(pools_of($t->fresh), 'created', %values) - $before;
}

1;
