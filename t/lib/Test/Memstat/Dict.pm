# Functions for tests of zones: the dictionary "dict", which dict_by_lua.conf fills, and the counts of a zone.
package Test::Memstat::Dict;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

use Test::Memstat::Answer;
use Test::Memstat::Proc qw(page_size);
use Test::Memstat::Zone;

our @EXPORT = qw(all_did all_reqs check_dict drop fill get overhead set);

use constant PAGE => page_size();

sub get { my ($t, $path) = @_;
    my $answer = $t->get($path);
    die "$path: $answer->{status}\n" unless $answer->{status} == 200;
    return $answer->{body} =~ s/\n\z//r;
}

# Returns the result of safe_set.
sub set { my ($t, $key, $length) = @_; return get($t, "/set?key=$key&length=$length") =~ s/^\d+ //r }

# Returns how many values were stored.
sub fill { my ($t, $key, $length, $from, $to) = @_;
    return get($t, "/fill?key=$key&length=$length&from=$from&to=$to") =~ s/^\d+ //r;
}

sub drop { my ($t, $key, $from, $to, $step) = @_;
    return get($t, "/drop?key=$key&from=$from&to=$to" . ($step ? "&step=$step" : ''));
}

# Returns the bytes of an entry of the dictionary beyond its key and value.
sub overhead {
    my ($t) = @_;
    my $requested = sub { sum(map { $_->{zones}{dict}{bytes_requested} } @{ $t->fresh->{processes} }) };
    my $before = $requested->();
    is set($t, 'k', 5000), 'ok', 'an entry to measure';
    my $bytes = $requested->() - $before - 5001;
    get($t, '/delete?key=k');
    return $bytes;
}

# Checks that the dictionary's figures agree with an independent reading, and that the largest allocation
# that should succeed does succeed.
sub check_dict {
    my ($t, $overhead, $when) = @_;
    my ($worker) = $t->workers;
    my $zone = $t->fresh->{shared_zones}{dict};
    agrees($worker, $zone, "$when: pages and slots");
    is $zone->{pages}{free} * PAGE, get($t, '/free'), "$when: free_space() agrees";
    my $free_slots = sum(map { $_ * $zone->{slots}{$_}{free} } keys %{ $zone->{slots} });
    is $zone->{in_use}, $zone->{pages}{used} * PAGE - $free_slots, "$when: in use";
    is $zone->{fill_percent}, int(100 * $zone->{in_use} / ($zone->{pages}{total} * PAGE)), "$when: fill";
    my $largest = $zone->{largest_allocation};
    my $length  = $largest - $overhead - length 'probe';
    if ($length >= 0) {
        is set($t, 'probe', $length + 1), 'no memory', "$when: a byte more than $largest fails";
        is set($t, 'probe', $length), 'ok', "$when: $largest succeeds";
        get($t, '/delete?key=probe');
    }
    else {
        is set($t, 'probe', 0), 'no memory', "$when: with $largest not even an empty value succeeds";
    }
    return $zone;
}

# Returns the sum of what all processes did to a zone.
sub all_did {
    my ($reply, $zone, @figures) = @_;
    return sum(map { my $uses = $_->{zones}{$zone}; map { $uses->{$_} } @figures } @{ $reply->{processes} });
}

# Returns the number of allocations that the zone itself has counted.
sub all_reqs {
    my ($reply, $zone) = @_;
    my $found = $reply->{shared_zones}{$zone};
    return $found->{pages}{reqs} + sum(map { $_->{reqs} } values %{ $found->{slots} });
}

1;
