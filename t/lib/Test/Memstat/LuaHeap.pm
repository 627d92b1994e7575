# Finds and walks LuaJIT's heaps in the memory of another process: an independent reading to compare an
# answer with.
package Test::Memstat::LuaHeap;

use strict;
use warnings;

use Exporter 'import';

use Test::Memstat::Proc qw(maps);

our @EXPORT_OK = qw(direct_mappings heaps);

# Returns the heaps of a process as hashes: segments { count, bytes }, free, largest, blocks (chunks in
# use). The process must be idle.
sub heaps {
    my ($pid) = @_;
    my $read = reader($pid);
    my @heaps;
    for my $page (pages($pid)) {
        my ($head, $trim) = unpack 'x8 Q< x40 Q<', $read->($page, 72);
        next unless defined $trim && ($head & ~1) == 882 && ($trim == 2 << 20 || $trim == ~0);
        push @heaps, heap($read, $page + 16);
    }
    return @heaps;
}

# Returns the sizes of the direct mappings, which have one block each.
sub direct_mappings {
    my ($pid) = @_;
    my $read = reader($pid);
    my @sizes;
    for my $page (pages($pid)) {
        my ($foot, $head) = unpack 'Q<2', $read->($page, 16);
        my $size = ($head // 0) + 30;
        next unless $foot == 1 && ($head & 7) == 2 && $size % 4096 == 0;
        my ($fence, $next) = unpack 'x8 Q<2', $read->($page + $size - 32, 24);
        push @sizes, $size if defined $next && $fence == 11 && $next == 0;
    }
    return @sizes;
}

sub reader {
    my ($pid) = @_;
    open my $memory, '<:raw', "/proc/$pid/mem" or die "cannot read the memory of $pid: $!\n";
    return sub {
        my ($at, $size) = @_;
        sysseek $memory, $at, 0 or return '';
        my $bytes = '';
        return sysread($memory, $bytes, $size) ? $bytes : '';
    };
}

# Returns the addresses of the pages of anonymous memory.
sub pages {
    my ($pid) = @_;
    return map {
        my $map = $_;
        map { $map->{from} + 4096 * $_ } 0 .. $map->{size} / 4096 - 1
    } grep { $_->{rights} eq 'rw-p' && !$_->{inode} && $_->{path} eq '' } maps($pid);
}

# Returns the heap whose state is at an address.
sub heap {
    my ($read, $state) = @_;
    my $top = unpack 'Q<', $read->($state + 32, 8);
    my %heap = (segments => { count => 0, bytes => 0 }, free => 0, largest => 0, blocks => 0);
    my $record = $state + 840;
    while ($record) {
        my ($base, $size, $next) = unpack 'Q<3', $read->($record, 24);
        $heap{segments}{count}++;
        $heap{segments}{bytes} += $size;
        my $bytes = $read->($base, $size);
        my $end = $record == $state + 840 ? $size - 64 : $record - 16 - $base;
        for (my $at = 0; $at < $end;) {
            my $head  = unpack 'Q<', substr $bytes, $at + 8, 8;
            my $chunk = $head & ~7;
            die "no chunk at $at\n" unless $chunk >= ($base + $at == $top ? 8 : 32);
            if (!($head & 2)) {
                $heap{free} += $chunk;
                $heap{largest} = $chunk if $chunk > $heap{largest};
            }
            elsif ($base + $at + 16 != $state) { $heap{blocks}++ }
            $at += $chunk;
        }
        $record = $next;
    }
    return \%heap;
}

1;
